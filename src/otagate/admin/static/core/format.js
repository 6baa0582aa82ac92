/* Numbers, sizes and times as people read them, by the browser's locale. */

import { locale, t } from "./i18n.js";

const NONE = "–";
const cache = new Map();

function formatter(Kind, options) {
  const key = `${locale()} ${Kind.name} ${JSON.stringify(options)}`;
  if (!cache.has(key)) cache.set(key, new Kind(locale(), options));
  return cache.get(key);
}

/** 12,345 */
export const number = (value) => (value == null ? NONE : formatter(Intl.NumberFormat, {}).format(value));

/** At most one decimal below 100: a rate. */
export function rate(value) {
  if (value == null || !Number.isFinite(value)) return NONE;
  return formatter(Intl.NumberFormat, { maximumFractionDigits: value < 100 ? 1 : 0 }).format(value);
}

/** 42% of a whole; never 100% before all, nor 0% after the first. */
export function percent(part, total) {
  if (!total) return NONE;
  let share = Math.round((part / total) * 100);
  if (part < total) share = Math.min(share, 99);
  if (part > 0) share = Math.max(share, 1);
  return formatter(Intl.NumberFormat, { style: "percent" }).format(share / 100);
}

const UNITS = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"];

/** 1.4 MB, in units of 1024 as the limits are. */
export function bytes(value) {
  if (value == null) return NONE;
  let unit = 0;
  let scaled = value;
  while (scaled >= 1024 && unit < UNITS.length - 1) {
    scaled /= 1024;
    unit += 1;
  }
  const options = { style: "unit", unit: UNITS[unit], unitDisplay: unit ? "short" : "long" };
  return formatter(Intl.NumberFormat, { ...options, maximumFractionDigits: unit && scaled < 100 ? 1 : 0 }).format(scaled);
}

/** Date and time, to the second. */
export function time(text) {
  if (!text) return NONE;
  return formatter(Intl.DateTimeFormat, { dateStyle: "medium", timeStyle: "medium" }).format(new Date(text));
}

/** Date and time, to the minute: for columns. */
export function shortTime(text) {
  if (!text) return NONE;
  return formatter(Intl.DateTimeFormat, {
    year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit",
  }).format(new Date(text));
}

/** Only the time of day, to the second. */
export const clock = (date) => formatter(Intl.DateTimeFormat, { timeStyle: "medium" }).format(date);

/** The names of identifiers in a sentence: a, b and c. */
export const list = (items) => formatter(Intl.ListFormat, { type: "conjunction" }).format(items);

/** Why nothing happens, as the API words it (docs/upgrades.md, "What it waits for"). */
export function waiting(text) {
  const due = /^retry due at (.+)$/.exec(text ?? "");
  if (due) return t("waiting.retry", { at: time(due[1]) });
  return text ? t(`waiting.${text.replaceAll(" ", "_")}`) : "";
}
