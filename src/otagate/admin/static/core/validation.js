/* Every rule for what people may type, as the gateway has it (otagate/upgrade/validation.py).

check.<rule>(value) returns the normalised value or throws a Broken that names the rule; the dictionaries hold each
rule's message under "rule.<rule>". The gateway's vectors (tests/vectors/validation.json) run against this file too.

Lengths count characters (code points), after NFC where the rule says so. Letter case is spelt out in the patterns:
the flags iu together would take the Kelvin sign for a k. */

import { limits } from "./limits.js";

/** A value that breaks the rule of this name. */
export class Broken extends Error {
  constructor(rule) {
    super(rule);
    this.rule = rule;
  }
}

const CHINESE = "\\u{3007}\\u{3400}-\\u{4dbf}\\u{4e00}-\\u{9fff}\\u{20000}-\\u{323af}";
const WORD = `${CHINESE}A-Za-z0-9`;
const FORMATS = [".bin", ".rom", ".zip", ".gz", ".tar", ".tar.gz"];
const AUTH_METHODS = ["secret", "certificate", "both"];
const SPACES = " \u00a0\u3000";

const anyCase = (text) => text.replace(/[a-z]/g, (letter) => `[${letter}${letter.toUpperCase()}]`).replace(/\./g, "\\.");
const whole = (pattern) => new RegExp(`^(?:${pattern})$`, "u");

const PRODUCT_KEY = whole(`[A-Za-z0-9_\\-]{1,${limits.product_key_chars_max}}`);
const IDENTIFIER = whole(`[A-Za-z0-9][A-Za-z0-9_.:@\\-]{0,${limits.identifier_chars_max - 1}}`);
const SECRET = whole(`[ -~]{${limits.secret_chars_min},${limits.secret_chars_max}}`);
const FIRMWARE_NAME = whole(`[${WORD}](?:[${WORD}_\\-.()（）]{0,${limits.firmware_name_chars_max - 2}}[${WORD}])?`);
const FIRMWARE_VERSION = whole(`[A-Za-z0-9_.\\-]{1,${limits.firmware_version_chars_max}}`);
const FILE_NAME = whole(`[${WORD}_\\-]{1,${limits.file_stem_chars_max}}(?:${FORMATS.map(anyCase).join("|")})`);
const NOT_TEXT = /[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]/u;

const characters = (text) => [...text].length;

function text(value, rule) {
  if (typeof value !== "string") throw new Broken(rule);
  return value;
}

function matching(pattern, value, rule) {
  if (!pattern.test(text(value, rule))) throw new Broken(rule);
  return value;
}

const nfc = (value, rule) => text(value, rule).normalize("NFC");

function freeText(value, rule, least, most) {
  const normal = nfc(value, rule);
  const count = characters(normal);
  const edges = normal === "" ? "" : normal[0] + normal[normal.length - 1];
  if (count < least || count > most || [...edges].some((edge) => SPACES.includes(edge)) || NOT_TEXT.test(normal)) {
    throw new Broken(rule);
  }
  return normal;
}

function description(value, rule) {
  const normal = nfc(value, rule);
  if (characters(normal) > limits.firmware_description_chars_max || NOT_TEXT.test(normal.replace(/[\n\r\t]/g, " "))) {
    throw new Broken(rule);
  }
  return normal;
}

function number(value, rule, least, most) {
  if (!Number.isInteger(value) || value < least || value > most) throw new Broken(rule);
  return value;
}

function word(value, rule, words) {
  if (!words.includes(value)) throw new Broken(rule);
  return value;
}

/** The checks by the names of their rules, as the vectors use them. */
export const check = {
  product_key: (value) => matching(PRODUCT_KEY, value, "product_key"),
  product_name: (value) => freeText(value, "product_name", 1, limits.product_name_chars_max),
  auth: (value) => word(value, "auth", AUTH_METHODS),
  identifier: (value) => matching(IDENTIFIER, value, "identifier"),
  device_name: (value) => freeText(value, "device_name", 0, limits.device_name_chars_max),
  token_name: (value) => freeText(value, "token_name", 1, limits.token_name_chars_max),
  secret: (value) => matching(SECRET, value, "secret"),
  firmware_name: (value) => matching(FIRMWARE_NAME, nfc(value, "firmware_name"), "firmware_name"),
  firmware_version: (value) => matching(FIRMWARE_VERSION, value, "firmware_version"),
  firmware_description: (value) => description(value, "firmware_description"),
  file_name: (value) => matching(FILE_NAME, nfc(value, "file_name"), "file_name"),
  size: (value) => number(value, "size", 1, limits.image_bytes_max),
  range: (value) => word(value, "range", ["all", "directed"]),
  validity_days: (value) => number(value, "validity_days", limits.validity_days_min, limits.validity_days_max),
  policy: (value) => word(value, "policy", ["standard", "silent"]),
  timeout_minutes: (value) =>
    number(value, "timeout_minutes", limits.timeout_minutes_min, limits.timeout_minutes_max),
  retries: (value) => number(value, "retries", 0, limits.retries_max),
  retry_interval_minutes: (value) =>
    number(value, "retry_interval_minutes", limits.retry_interval_minutes_min, limits.retry_interval_minutes_max),
};

/** What a number field holds: a whole number, or NaN for anything else, which every rule refuses. */
export const wholeNumber = (typed) => (/^\s*\d{1,9}\s*$/.test(String(typed)) ? Number(typed) : Number.NaN);
