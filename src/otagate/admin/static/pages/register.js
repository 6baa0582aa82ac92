/* Registering devices: one, or a file of very many, whose results are read while they arrive. */

import { api, explain, part, send } from "../core/api.js";
import { useProducts } from "../core/fleet.js";
import { number } from "../core/format.js";
import { t } from "../core/i18n.js";
import { href } from "../core/router.js";
import { csvLine, save } from "../core/save.js";
import { check } from "../core/validation.js";
import { html, useRef, useState } from "../core/view.js";
import { Drop } from "../parts/drop.js";
import { Failure, SelectField, TextField, useForm } from "../parts/form.js";
import { Head, LoadFailure, NoProduct } from "../parts/page.js";
import { Table } from "../parts/table.js";
import { SecretDialog } from "./devices.js";

const FAILURES_SHOWN = 200;

export function RegisterPage({ query }) {
  const { value: products, error } = useProducts();
  const [many, setMany] = useState(false);
  if (error) return html`<${LoadFailure} error=${error} />`;
  if (!products) return null;
  const head = html`<${Head} title=${t("register.title")} crumbs=${[[t("nav.devices"), href("devices", { product: query.product })]]} />`;
  if (products.length === 0) return html`${head}<${NoProduct} />`;
  const tab = (chosen, text) => html`<button aria-pressed=${many === chosen ? "true" : "false"} onClick=${() => setMany(chosen)}>${text}</button>`;
  const options = products.map(({ key, name }) => [key, `${name} (${key})`]);
  const start = query.product ?? products[0]?.key ?? "";
  return html`
    ${head}
    <div><div class="segments" role="group" aria-label=${t("register.title")}>${tab(false, t("register.one"))}${tab(true, t("register.many"))}</div></div>
    ${many ? html`<${Many} ...${{ options, start }} />` : html`<${One} ...${{ options, start }} />`}`;
}

function One({ options, start }) {
  const optional = (rule) => (value) => (value === "" ? null : rule(value));
  const form = useForm({ product: start, identifier: "", name: "", secret: "" },
    { identifier: check.identifier, name: check.device_name, secret: optional(check.secret) });
  const [registered, setRegistered] = useState(null);
  const register = async ({ product, identifier, name, secret }) => {
    const body = { identifier, ...(name && { name }), ...(secret && { secret }) };
    setRegistered(await api.create(`/products/${part(product)}/devices`, body));
    for (const field of ["identifier", "name", "secret"]) form.set(field, "");
  };
  return html`<form class="panel form narrow" ref=${form.element} onSubmit=${(event) => form.submit(event, register)}>
    <${SelectField} form=${form} name="product" label=${t("device.product")} options=${options} />
    <${TextField} form=${form} name="identifier" label=${t("device.identifier")} hint=${t("register.identifier_hint")} mono autofocus />
    <${TextField} form=${form} name="name" label=${t("device.name")} hint=${t("register.name_hint")} />
    <${TextField} form=${form} name="secret" label=${t("register.secret")} hint=${t("register.secret_hint")} mono />
    <${Failure} text=${form.failure} />
    <div class="actions"><button type="submit" class="primary" disabled=${form.busy}>${t("device.register")}</button></div>
    ${registered && html`<${SecretDialog} device=${registered} onClose=${() => setRegistered(null)} />`}
  </form>`;
}

/** "application/x-ndjson" or "text/csv", by the file's name, else by how it begins. */
export async function mediaType(file) {
  if (/\.csv$/i.test(file.name)) return "text/csv";
  if (/\.(ndjson|jsonl|json)$/i.test(file.name)) return "application/x-ndjson";
  const head = (await file.slice(0, 64).text()).trimStart();
  return head.startsWith("{") ? "application/x-ndjson" : "text/csv";
}

/** Each line of a streamed answer, decoded. */
async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let open = "";
  for (;;) {
    const { value, done } = await reader.read();
    const parts = (open + (value ?? "")).split("\n");
    open = parts.pop();
    const whole = done && open ? [...parts, open] : parts;
    yield whole.filter(Boolean).map((line) => JSON.parse(line));
    if (done) return;
  }
}

function Many({ options, start }) {
  const form = useForm({ product: start });
  const [file, setFile] = useState(null);
  const [result, setResult] = useState(null);
  const secrets = useRef([]);
  const register = async ({ product }) => {
    const tally = { registered: 0, refused: 0, failures: [], ended: false };
    secrets.current = [csvLine(["identifier", "secret"])];
    setResult({ ...tally });
    const headers = { "Content-Type": await mediaType(file) };
    try {
      const response = await send("POST", `/products/${part(product)}/devices`, { body: file, headers });
      for await (const some of lines(response)) {
        for (const line of some) count(tally, line, secrets.current);
        setResult({ ...tally });
      }
      tally.ended = true;
      setResult({ ...tally });
    } catch (error) {
      if (tally.registered + tally.refused === 0) setResult(null);
      throw error;
    }
  };
  return html`<form class="stack narrow" ref=${form.element} onSubmit=${(event) => form.submit(event, register)}>
    <div class="panel form">
      <${SelectField} form=${form} name="product" label=${t("device.product")} options=${options} />
      <${Drop} file=${file} onFile=${setFile} label=${t("register.file")} hint=${t("register.file_hint")} accept=".csv,.ndjson,.jsonl" />
      <${Failure} text=${form.failure} />
      <div class="actions"><button type="submit" class="primary" disabled=${form.busy || !file}>${form.busy ? t("register.running") : t("register.start")}</button></div>
    </div>
    ${result && html`<${Results} ...${{ result, product: form.values.product }} secrets=${secrets.current} />`}
  </form>`;
}

function count(tally, line, secrets) {
  if (line.error) {
    tally.refused += 1;
    if (tally.failures.length < FAILURES_SHOWN) tally.failures = [...tally.failures, line];
  } else {
    tally.registered += 1;
    secrets.push(csvLine([line.identifier, line.secret]));
  }
}

function Results({ result, product, secrets }) {
  const columns = [
    { key: "line", label: t("register.line"), class: "number", cell: (line) => number(line.line) },
    { key: "identifier", label: t("device.identifier"), cell: (line) => html`<span class="mono">${line.identifier ?? "–"}</span>` },
    { key: "error", label: t("register.reason"), cell: (line) => explain(Object.assign(new Error(line.error.message), line.error)) },
  ];
  return html`<section class="section">
    <div class="section-head" role="status">
      <h2>${t("register.registered", { count: result.registered })}</h2>
      <span class=${result.refused ? "error" : "quiet"}>${t("register.refused", { count: result.refused })}</span>
    </div>
    ${result.registered > 0 && html`<div class="notice warn">${t("register.secrets_once")}
      <span class="actions"><button type="button" onClick=${() => save(`${product}-secrets.csv`, "text/csv", secrets)}>${t("register.download")}</button></span></div>`}
    ${result.failures.length > 0 && html`<div class="panel flush"><${Table} items=${result.failures} columns=${columns} rowKey=${(line) => line.line} label=${t("register.refused", { count: result.refused })} /></div>`}
    ${result.refused > FAILURES_SHOWN && html`<p class="quiet">${t("register.first_failures", { count: FAILURES_SHOWN })}</p>`}
  </section>`;
}
