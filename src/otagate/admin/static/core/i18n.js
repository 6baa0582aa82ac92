/* The texts of the console, in one language at a time.

A dictionary maps keys to texts; {name} stands for a parameter. A text that depends on a number is
{one, other}, chosen by the language's plural rule for the parameter `count`. Both dictionaries have the same keys
and parameters (tests/console/modules.mjs). */

import en from "../i18n/en.js";
import zh from "../i18n/zh.js";
import { remember, remembered } from "./preferences.js";

export const LANGUAGES = { en: "English", zh: "简体中文" };
const DICTIONARIES = { en, zh };

let current = "en";
let plural = new Intl.PluralRules("en");

/** The language that is shown: "en" or "zh". */
export const language = () => current;

/** The tag to format numbers and dates by: the browser's own for this language, if it has one. */
export function locale() {
  const own = globalThis.navigator?.languages ?? [];
  return own.find((tag) => tag.toLowerCase().startsWith(current)) ?? (current === "zh" ? "zh-CN" : "en");
}

/** Show this language. */
export function useLanguage(chosen) {
  current = chosen in DICTIONARIES ? chosen : "en";
  plural = new Intl.PluralRules(current);
  if (globalThis.document) document.documentElement.lang = current === "zh" ? "zh-CN" : "en";
}

/** The remembered language, else the first of the browser's that there is. */
export function startLanguage() {
  const tags = [remembered("language"), ...(globalThis.navigator?.languages ?? [])].filter(Boolean);
  const known = tags.map((tag) => tag.slice(0, 2).toLowerCase()).find((tag) => tag in DICTIONARIES);
  useLanguage(known ?? "en");
}

/** Choose a language and remember it. */
export function chooseLanguage(chosen) {
  useLanguage(chosen);
  remember("language", current);
}

/** Whether there is a text of this key. */
export const has = (key) => key in DICTIONARIES[current];

/** The text of a key. Numbers among the parameters are shown as the locale has them. */
export function t(key, parameters = {}) {
  let text = DICTIONARIES[current][key];
  if (text === undefined) return key;
  if (typeof text === "object") text = text[plural.select(Number(parameters.count))] ?? text.other;
  return text.replace(/\{(\w+)\}/g, (_, name) => {
    const value = parameters[name];
    return typeof value === "number" ? value.toLocaleString(locale()) : String(value ?? "");
  });
}

/** The English text of a key as it stands: what the gateway says too, where it checks the same rule. */
t.english = (key) => en[key];
