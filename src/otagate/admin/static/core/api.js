/* The client of the gateway's API. It is all that the console knows of the gateway.

Who asks is proved by the session's cookie, and a CSRF token on requests that change something; or, where there is no
cookie (a gateway without sessions), by the token itself, which then lives in this module's memory and nowhere else. */

import { has, t } from "./i18n.js";

const credentials = { token: null, csrf: null };
const listeners = new Set();

/** A refusal by the gateway, or (code "unreachable") no answer at all. */
export class ApiError extends Error {
  constructor(status, { code, message, field, details }) {
    super(message);
    this.status = status;
    this.code = code;
    this.field = field ?? null;
    this.details = details ?? null;
  }
}

/** Prove with these from now on. */
export const setCredentials = (token, csrf) => Object.assign(credentials, { token, csrf });

/** Call back when the gateway says that we are (no longer) logged in; returns how to stop. */
export function onUnauthorized(callback) {
  listeners.add(callback);
  return () => listeners.delete(callback);
}

/** The address of an API path; empty parameters are left out. */
export function address(path, query = {}) {
  const url = new URL(`api/v1${path}`, document.baseURI);
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== "") url.searchParams.set(name, value);
  }
  return url.href;
}

/** Headers that prove who asks. */
export function proof(method) {
  if (credentials.token) return { Authorization: `Bearer ${credentials.token}` };
  return credentials.csrf && method !== "GET" ? { "X-CSRF-Token": credentials.csrf } : {};
}

/** The error that an answer which is no success tells of. */
export function errorOf(status, text) {
  try {
    return new ApiError(status, JSON.parse(text).error);
  } catch {
    return new ApiError(status, { code: "unexpected", message: t("error.unexpected", { status: String(status) }) });
  }
}

const unreachable = () => new ApiError(0, { code: "unreachable", message: t("error.unreachable") });

// Another tab that logged in has given this browser another session; its CSRF token is asked for once.
async function renewed() {
  const before = credentials.csrf;
  try {
    credentials.csrf = (await json(await send("GET", "/session"))).csrf;
  } catch {
    return false;
  }
  return credentials.csrf !== before;
}

/** Send and give the Response of a success; throws ApiError, and AbortError when `signal` says so. */
export async function send(method, path, { query, body, headers, signal } = {}) {
  let response;
  try {
    response = await fetch(address(path, query), {
      method, body, signal, credentials: "same-origin", cache: "no-store",
      headers: { ...proof(method), ...headers },
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw unreachable();
  }
  if (response.ok) return response;
  const error = errorOf(response.status, await response.text());
  if (error.code === "csrf" && credentials.csrf && (await renewed())) return send(method, path, { query, body, headers, signal });
  if (error.status === 401 && path !== "/session") listeners.forEach((listener) => listener());
  throw error;
}

// A creation whose answer was lost is asked for again under the same key, and so happens once (24 h).
const unanswered = new Map();

function idempotencyKey(path, body) {
  const name = `${path} ${body}`;
  if (!unanswered.has(name)) {
    const random = crypto.getRandomValues(new Uint8Array(16));
    unanswered.set(name, Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join(""));
  }
  return [name, unanswered.get(name)];
}

async function json(response) {
  const text = await response.text();
  return text ? JSON.parse(text) : null;
}

export const api = {
  /** GET as JSON. */
  get: async (path, query, signal) => json(await send("GET", path, { query, signal })),

  /** POST a JSON body, or none. */
  post: async (path, body) =>
    json(await send("POST", path, body === undefined ? {} : { body: JSON.stringify(body), headers: JSON_TYPE })),

  /** POST that makes something: asked twice with the same body it is made once. */
  async create(path, body) {
    const text = JSON.stringify(body);
    const [name, key] = idempotencyKey(path, text);
    try {
      const answer = await json(
        await send("POST", path, { body: text, headers: { ...JSON_TYPE, "Idempotency-Key": key } }),
      );
      unanswered.delete(name);
      return answer;
    } catch (error) {
      if (error.status) unanswered.delete(name);
      throw error;
    }
  },

  patch: async (path, body) => json(await send("PATCH", path, { body: JSON.stringify(body), headers: JSON_TYPE })),
  delete: async (path) => json(await send("DELETE", path)),
};

const JSON_TYPE = { "Content-Type": "application/json" };

/** Upload a file as the body; `onProgress(bytes)` as it goes. Only XMLHttpRequest tells how far an upload is. */
export function upload(path, { query, file, headers, signal, onProgress }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", address(path, query));
    for (const [name, value] of Object.entries({ ...proof("POST"), ...headers })) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => onProgress?.(event.loaded);
    request.onerror = () => reject(unreachable());
    request.onabort = () => reject(new DOMException("aborted", "AbortError"));
    request.onload = () => {
      const succeeded = request.status >= 200 && request.status < 300;
      if (succeeded) resolve(JSON.parse(request.responseText));
      else reject(errorOf(request.status, request.responseText));
    };
    signal?.addEventListener("abort", () => request.abort());
    request.send(file);
  });
}

/** One part of a path. */
export const part = (text) => encodeURIComponent(text);

// The rules whose sentence the gateway sends in English; the dictionaries have each in both languages.
const FIELD_RULES = {
  key: ["product_key"], name: ["product_name", "device_name", "firmware_name", "token_name"], version: ["firmware_version"],
  description: ["firmware_description"], file_name: ["file_name"], identifier: ["identifier"], secret: ["secret"],
};

// Refusals that name things: how the gateway words them, and the name of our text, whose parameters the groups are.
const REFUSALS = [
  [/^the firmware .+ is in use by batch (?<batch>\S+)$/, "firmware_in_use"],
  [/^the product key (?<name>.+) is already taken$/, "taken"],
  [/^the identifier (?<name>.+) is already taken$/, "taken"],
  [/^the firmware name (?<name>.+) is already taken$/, "taken"],
  [/^the name '(?<name>.+)' is taken$/, "taken"],
  [/^there is a token named (?<name>.+) already$/, "taken"],
  [/^the product .+ already has firmware of version (?<name>.+)$/, "taken"],
  [/^the product .+ still has .+$/, "product_in_use"],
  [/^the device .+ has an upgrade that has not ended$/, "device_in_use"],
  [/^(the )?batch .+ has already ended$/, "batch_ended"],
  [/^there is no (batch|firmware|device|product|token|webhook) '?(?<name>[^\s']+)/, "missing"],
  [/^This token is not valid\.$/, "token"],
];

/** What went wrong ({message, field?}), in the language shown where that is known, else in the gateway's own words. */
export function explain(error) {
  for (const rule of FIELD_RULES[error.field] ?? [error.field]) {
    if (rule && has(`rule.${rule}`) && error.message === t.english(`rule.${rule}`)) return t(`rule.${rule}`);
  }
  for (const [words, key] of REFUSALS) {
    const found = words.exec(error.message);
    if (found) return t(`refusal.${key}`, { ...found.groups });
  }
  return error.message;
}
