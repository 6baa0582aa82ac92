/* The console's modules without a browser. Run by test_modules.py: node --test modules.mjs, with STATIC (a copy of
static/) and VECTORS (tests/vectors/validation.json) in the environment. */

import assert from "node:assert/strict";
import crypto from "node:crypto";
import fs from "node:fs";
import path from "node:path";
import test from "node:test";

const STATIC = process.env.STATIC;
const load = (name) => import(path.join(STATIC, name));

globalThis.document = { baseURI: "http://gateway/", documentElement: {} };

const { check, Broken, wholeNumber } = await load("core/validation.js");
const { Md5 } = await load("core/md5.js");
const i18n = await load("core/i18n.js");
const { api, ApiError, explain, errorOf, onUnauthorized, setCredentials } = await load("core/api.js");
const { parse, href } = await load("core/router.js");
const { csvLine } = await load("core/save.js");
const { curve } = await load("core/history.js");
const { identifiersOf, sorted } = await load("parts/selection.js");
const { append, historyOf } = await load("pages/overview.js");
const { mended } = await load("pages/firmware_add.js");
const { mediaType } = await load("pages/register.js");
const format = await load("core/format.js");
const en = (await load("i18n/en.js")).default;
const zh = (await load("i18n/zh.js")).default;

// -- rules -----------------------------------------------------------------------------------------

const vectors = JSON.parse(fs.readFileSync(process.env.VECTORS, "utf8"));

test("the vectors name every rule", () => assert.deepEqual(Object.keys(vectors).sort(), Object.keys(check).sort()));

for (const [rule, cases] of Object.entries(vectors)) {
  test(`rule ${rule}: ${cases.length} vectors`, () => {
    for (const { value, ok, normalized, error, note } of cases) {
      const said = `${rule} ${JSON.stringify(value)} ${note ?? ""}`;
      if (ok) assert.equal(check[rule](value), normalized, said);
      else {
        assert.throws(() => check[rule](value), (broken) => broken instanceof Broken && broken.rule === rule, said);
        assert.equal(en[`rule.${rule}`], error, said);
      }
    }
  });
}

test("number fields", () => {
  for (const [typed, value] of [["7", 7], [" 42 ", 42], ["0", 0]]) assert.equal(wholeNumber(typed), value);
  for (const typed of ["", "1.5", "1e3", "-1", "0x10", "seven", "9999999999"]) assert.ok(Number.isNaN(wholeNumber(typed)), typed);
});

test("a file name is mended so that it keeps the rule", () => {
  assert.equal(mended("lamp-2.1.0.bin"), "lamp-2_1_0.bin");
  assert.equal(mended("灯 固件.TAR.GZ"), "灯_固件.TAR.GZ");
  assert.equal(mended("notes.txt"), null);
});

// -- MD5 -------------------------------------------------------------------------------------------

test("MD5: the vectors of RFC 1321 appendix A.5", () => {
  const known = {
    "": "d41d8cd98f00b204e9800998ecf8427e",
    a: "0cc175b9c0f1b6a831c399e269772661",
    abc: "900150983cd24fb0d6963f7d28e17f72",
    "message digest": "f96b697d7cb7938d525a2f31aaf161d0",
    abcdefghijklmnopqrstuvwxyz: "c3fcd3d76192e4007dfb496cca67e13b",
    ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789: "d174ab98d277d9f5a5611c2c9f419d9f",
    ["1234567890".repeat(8)]: "57edf4a22be3c955ac49da2e2107b67a",
  };
  for (const [text, digest] of Object.entries(known)) assert.equal(new Md5().update(Buffer.from(text)).hex(), digest, text);
});

test("MD5: any length, in any pieces, as OpenSSL has it", () => {
  for (const length of [1, 55, 56, 57, 63, 64, 65, 119, 120, 128, 1000, 65_537]) {
    const bytes = crypto.randomBytes(length);
    const wanted = crypto.createHash("md5").update(bytes).digest("hex");
    for (const step of [1, 37, 64, 100, length]) {
      if (length / step > 5000) continue;
      const digest = new Md5();
      for (let at = 0; at < length; at += step) digest.update(bytes.subarray(at, at + step));
      assert.equal(digest.hex(), wanted, `${length} bytes by ${step}`);
    }
  }
});

// -- languages -------------------------------------------------------------------------------------

const forms = (text) => (typeof text === "string" ? [text] : Object.values(text));
const parameters = (text) => [...new Set(forms(text).flatMap((form) => form.match(/\{\w+\}/g) ?? []))].sort();

test("both languages have the same texts, with the same parameters", () => {
  assert.deepEqual(Object.keys(zh), Object.keys(en));
  for (const key of Object.keys(en)) {
    assert.deepEqual(parameters(zh[key]), parameters(en[key]), key);
    assert.equal(typeof zh[key], typeof en[key], key);
    if (typeof en[key] === "object") {
      assert.deepEqual(Object.keys(en[key]), ["one", "other"], key);
      assert.deepEqual(Object.keys(zh[key]), ["other"], key);
      assert.ok(parameters(en[key]).includes("{count}"), key);
    }
    for (const text of [...forms(en[key]), ...forms(zh[key])]) assert.ok(text.trim(), key);
  }
});

test("the bounds in a rule are the same in both languages", () => {
  const numbers = (text) => (text.replaceAll(",", "").match(/\d+/g) ?? []).sort();
  for (const key of Object.keys(en).filter((name) => /^rule\.|_hint$/.test(name))) {
    assert.deepEqual(numbers(zh[key]), numbers(en[key]), key);
  }
});

const sources = fs.readdirSync(STATIC, { recursive: true })
  .filter((name) => name.endsWith(".js") && !name.startsWith("i18n") && !name.startsWith("vendor"))
  .map((name) => fs.readFileSync(path.join(STATIC, name), "utf8")).join("\n");

test("every text that is asked for is there, and no text is never asked for", () => {
  const literal = new Set([...sources.matchAll(/\b(?:t|known)\("([a-z]\w*\.\w+)"/g)].map((found) => found[1]));
  const prefixes = [...sources.matchAll(/`([a-z]\w*)\.\$\{/g)].map((found) => found[1]);
  const explained = ["policy", "range"].filter((name) => sources.includes(`explained("${name}"`));
  const families = new Set([...prefixes, ...explained]);
  for (const key of literal) assert.ok(key in en, `${key} is asked for`);
  for (const key of Object.keys(en)) assert.ok(literal.has(key) || families.has(key.split(".")[0]), `${key} is never asked for`);
});

test("plurals and numbers", () => {
  i18n.useLanguage("en");
  assert.equal(i18n.t("batch.summary", { count: 1, bytes: "2 MB" }), "1 device, 2 MB to download");
  assert.equal(i18n.t("batch.summary", { count: 1200, bytes: "2 MB" }), "1,200 devices, 2 MB to download");
  i18n.useLanguage("zh");
  assert.equal(i18n.t("selection.selected", { count: 1 }), "已选 1 台");
  assert.equal(i18n.t("no.such.text"), "no.such.text");
  i18n.useLanguage("en");
});

test("sizes, shares and reasons to wait", () => {
  i18n.useLanguage("en");
  assert.equal(format.bytes(104_857_600), "100 MB");
  assert.equal(format.percent(999, 1000), "99%");
  assert.equal(format.percent(1, 100_000), "1%");
  assert.equal(format.percent(0, 10), "0%");
  assert.equal(format.waiting("a push slot"), "Waits for a push slot");
  assert.match(format.waiting("retry due at 2026-11-23T19:32:19Z"), /^Waits: retry due .*2026/);
  assert.equal(format.time(null), "–");
});

// -- the API's client ------------------------------------------------------------------------------

/** Answer the next requests so; gives what was asked. */
function answering(...answers) {
  const asked = [];
  globalThis.fetch = async (url, options) => {
    asked.push({ url, ...options });
    const answer = answers.shift();
    if (answer instanceof Error) throw answer;
    return answer;
  };
  return asked;
}

const refusal = (status, error) => new Response(JSON.stringify({ error }), { status });

test("a refusal keeps its code, message, field and details", async () => {
  answering(refusal(422, { code: "invalid", message: "No.", field: "retries", details: [1] }));
  await assert.rejects(api.post("/batches", {}), (error) => {
    assert.ok(error instanceof ApiError);
    assert.deepEqual([error.status, error.code, error.message, error.field, error.details], [422, "invalid", "No.", "retries", [1]]);
    return true;
  });
});

test("no answer, and an answer that is no JSON", async () => {
  answering(new TypeError("failed to fetch"), new Response("<h1>Bad gateway</h1>", { status: 502 }));
  await assert.rejects(api.get("/products"), { code: "unreachable", status: 0, message: en["error.unreachable"] });
  await assert.rejects(api.get("/products"), { code: "unexpected", status: 502 });
  assert.equal(errorOf(500, "{}").code, "unexpected");
});

test("a request that was called off is no error of the gateway", async () => {
  answering(new DOMException("aborted", "AbortError"));
  await assert.rejects(api.get("/products"), { name: "AbortError" });
});

test("401 says that the session is over, but not to who asks for a session", async () => {
  let told = 0;
  const stop = onUnauthorized(() => { told += 1; });
  answering(refusal(401, { code: "unauthorized", message: "" }), refusal(401, { code: "unauthorized", message: "" }));
  await assert.rejects(api.get("/session"), { status: 401 });
  assert.equal(told, 0);
  await assert.rejects(api.get("/products"), { status: 401 });
  assert.equal(told, 1);
  stop();
});

test("a session's requests carry the CSRF token when they change something, a token's always the token", async () => {
  const asked = answering(Response.json({}), Response.json({}), new Response(null, { status: 204 }), Response.json({}));
  setCredentials(null, "secret");
  await api.get("/products", { q: "a b", cursor: null, version: "" });
  await api.post("/products", {});
  setCredentials("token", null);
  assert.equal(await api.delete("/products/a"), null);
  await api.get("/products");
  assert.equal(asked[0].url, "http://gateway/api/v1/products?q=a+b");
  assert.deepEqual(asked.map(({ headers }) => headers["X-CSRF-Token"]), [undefined, "secret", undefined, undefined]);
  assert.deepEqual(asked.map(({ headers }) => headers.Authorization), [undefined, undefined, "Bearer token", "Bearer token"]);
  setCredentials(null, null);
});

test("a CSRF token of another tab's session is taken over, once", async () => {
  const refused = () => refusal(403, { code: "csrf", message: "" });
  setCredentials(null, "old");
  const asked = answering(refused(), Response.json({ csrf: "new" }), Response.json({ done: 1 }));
  assert.deepEqual(await api.post("/products", {}), { done: 1 });
  assert.deepEqual(asked.map(({ headers }) => headers["X-CSRF-Token"]), ["old", undefined, "new"]);
  answering(refused(), Response.json({ csrf: "new" }));
  await assert.rejects(api.post("/products", {}), { code: "csrf" });
  setCredentials(null, null);
});

test("a creation that was not answered is asked for under the same key, any other under a new one", async () => {
  const lost = new TypeError("failed to fetch");
  const asked = answering(lost, Response.json({}), Response.json({}), refusal(409, { code: "conflict", message: "" }), Response.json({}));
  await assert.rejects(api.create("/products", { key: "a" }));
  await api.create("/products", { key: "a" });
  await api.create("/products", { key: "a" });
  await assert.rejects(api.create("/products", { key: "b" }));
  await api.create("/products", { key: "b" });
  const keys = asked.map(({ headers }) => headers["Idempotency-Key"]);
  assert.equal(keys[0], keys[1]);
  assert.equal(new Set(keys).size, 4);
  assert.match(keys[0], /^[0-9a-f]{32}$/);
});

test("the gateway's sentence about a rule is shown in the language of the console", () => {
  i18n.useLanguage("zh");
  assert.equal(explain({ field: "version", message: en["rule.firmware_version"] }), zh["rule.firmware_version"]);
  assert.equal(explain({ field: "retries", message: en["rule.retries"] }), zh["rule.retries"]);
  assert.equal(explain({ field: "name", message: "This name is taken." }), "This name is taken.");
  assert.equal(explain({ field: null, message: "Something else." }), "Something else.");
  assert.equal(explain({ message: "the firmware lamp-2 is in use by batch b7" }), "批次 b7 正在进行并使用此固件，结束后才能删除。");
  assert.equal(explain({ field: "key", message: "the product key lamp is already taken" }), "“lamp”已被占用，请换一个。");
  i18n.useLanguage("en");
});

// -- the rest --------------------------------------------------------------------------------------

test("addresses of pages there and back", () => {
  const address = href("batches", "b 1/ü", { state: "failed", q: "", page: null });
  assert.equal(address, "#/batches/b%201%2F%C3%BC?state=failed");
  assert.deepEqual(parse(address), { path: ["batches", "b 1/ü"], query: { state: "failed" } });
  assert.deepEqual(parse(""), { path: [], query: {} });
  assert.deepEqual(parse("#/batches/%/%ff%20?q=%"), { path: ["batches", "%", "%ff%20"], query: { q: "%" } });
});

test("CSV of secrets: quotes, and every cell as it is", () => {
  assert.equal(csvLine(["a", 'b"c', "d,e", null]), 'a,"b""c","d,e",\r\n');
  assert.equal(csvLine(["-2", "=1+1", "@x"]), "-2,=1+1,@x\r\n");
});

test("identifiers of a text, of CSV, with and without a header", () => {
  assert.deepEqual(identifiersOf("d1\r\nd2, d3 d1;d4\n\n"), ["d1", "d2", "d3", "d4"]);
  assert.deepEqual(identifiersOf("\ufeffname,identifier\nHall,d1\nStairs,\"d2\"\n"), ["d1", "d2"]);
  assert.deepEqual(sorted(["d1", "-no"]), { good: ["d1"], bad: ["-no"] });
});

test("how a file of devices is sent", async () => {
  const file = (name, text) => Object.assign(new Blob([text]), { name });
  assert.equal(await mediaType(file("a.CSV", "")), "text/csv");
  assert.equal(await mediaType(file("a.ndjson", "")), "application/x-ndjson");
  assert.equal(await mediaType(file("a.txt", ' {"identifier": "d1"}')), "application/x-ndjson");
  assert.equal(await mediaType(file("a.txt", "identifier\nd1\n")), "text/csv");
});

test("the curve of a batch, from completion times", () => {
  const at = (second) => `2026-01-01T00:00:${String(second).padStart(2, "0")}.000Z`;
  const start = Date.parse(at(0)) / 1000;
  const samples = curve(at(0), 4, [[at(3), false], [at(1), true], [at(3), true]]);
  assert.deepEqual(samples, [[start, 0, 0, 4], [start + 1, 1, 0, 3], [start + 3, 2, 1, 1]]);
});

test("the overview's samples: the gateway's memory, then rates from totals", () => {
  const history = { interval_s: 5, at: "2026-01-01T00:00:10.000Z", devices_online: [1, 2, 3], logins: [5, 10, 0], pushes: [0, 0, 50] };
  const end = Date.parse(history.at) / 1000;
  const samples = historyOf({ history });
  assert.deepEqual(samples, [[end - 10, 1, 1, 0], [end - 5, 2, 2, 0], [end, 3, 0, 10]]);
  const before = { at: history.at, devices_online: 3, logins_total: 100, pushes_total: 10 };
  const now = { at: "2026-01-01T00:00:12.000Z", devices_online: 4, logins_total: 110, pushes_total: 10 };
  assert.deepEqual(append(samples, before, now).at(-1), [end + 2, 4, 5, 0]);
  assert.equal(append(samples, now, now), samples);
  const restarted = { ...now, logins_total: 0 };
  assert.equal(append(samples, before, restarted).at(-1)[2], 0);
});
