/* Adding a firmware: a file, and every rule of its fields checked while typing.

The file's MD5 is computed here, in a worker, while the form is filled in. It goes along with the upload, so the
gateway keeps the image only if it got what this browser read. */

import { upload } from "../core/api.js";
import { useProducts } from "../core/fleet.js";
import { bytes, percent } from "../core/format.js";
import { t } from "../core/i18n.js";
import { go, href } from "../core/router.js";
import { Broken, check } from "../core/validation.js";
import { html, useEffect, useRef, useState } from "../core/view.js";
import { say } from "../parts/dialog.js";
import { Drop } from "../parts/drop.js";
import { Failure, SelectField, TextField, useForm } from "../parts/form.js";
import { Head, LoadFailure, NoProduct } from "../parts/page.js";

export function FirmwareAddPage({ query }) {
  const { value: products, error } = useProducts();
  if (error) return html`<${LoadFailure} error=${error} />`;
  if (!products) return null;
  const head = html`<${Head} title=${t("firmware.add")} crumbs=${[[t("nav.firmware"), href("firmware")]]} />`;
  if (products.length === 0) {
    return html`${head}<${NoProduct} />`;
  }
  return html`${head}<${Add} products=${products} start=${query.product || products[0].key} />`;
}

/** The MD5 of a file: {promise, stop}; `onProgress(share)` as it goes. */
function digest(file, onProgress) {
  const worker = new Worker(new URL("../core/md5_worker.js", import.meta.url), { type: "module" });
  const promise = new Promise((resolve, reject) => {
    worker.onerror = (event) => reject(new Error(event.message || t("firmware.unreadable")));
    worker.onmessage = ({ data }) => {
      if (data.md5) resolve(data.md5);
      else if (data.failed) reject(new Error(t("firmware.unreadable")));
      else onProgress(data.done / data.total);
    };
    worker.postMessage(file);
  }).finally(() => worker.terminate());
  promise.catch(() => {}); // It is awaited only when the form is sent.
  return { promise, stop: () => worker.terminate() };
}

/** The file name with what it may not have replaced, or null if that does not mend it. */
export function mended(name) {
  const format = /(\.tar\.gz|\.[a-z]+)$/i.exec(name)?.[0] ?? "";
  const stem = [...name.slice(0, name.length - format.length).normalize("NFC")]
    .map((character) => (/[\p{Script=Han}\w-]/u.test(character) ? character : "_")).slice(0, 64).join("");
  try {
    return check.file_name(stem + format);
  } catch {
    return null;
  }
}

const SIGNATURE_BYTES_MAX = 4096; // More than one has: the gateway says so.

const chosen = (file) => {
  if (!file) throw new Broken("file");
  check.size(file.size);
  return file;
};

function Add({ products, start }) {
  const form = useForm({ product: start, name: "", version: "", file: null, file_name: "", description: "", signature: null }, {
    file: chosen,
    name: check.firmware_name,
    version: check.firmware_version,
    file_name: check.file_name,
    description: check.firmware_description,
  }, { eager: true });
  const [md5, setMd5] = useState({ share: 0, text: null });
  const [sent, setSent] = useState(null);
  const running = useRef(null);
  const abort = useRef(null);
  useEffect(() => () => {
    running.current?.stop();
    abort.current?.abort();
  }, []);

  function take(file) {
    form.set("file", file);
    form.set("file_name", file.name);
    running.current?.stop();
    setMd5({ share: 0, text: null });
    const current = digest(file, (share) => running.current === current && setMd5({ share, text: null }));
    running.current = current;
    current.promise.then((text) => running.current === current && setMd5({ share: 1, text }), () => {});
  }

  async function add({ file, signature, ...fields }) {
    if (signature) fields.signature = await signature.slice(0, SIGNATURE_BYTES_MAX).text();
    const expected = await running.current.promise;
    abort.current = new AbortController();
    setSent(0);
    try {
      const firmware = await upload("/firmware", {
        query: fields, file, signal: abort.current.signal, onProgress: setSent,
        headers: { "Content-Type": "application/octet-stream", "Content-MD5": expected },
      });
      if (firmware.md5 !== expected) throw new Error(t("firmware.md5_differs"));
      say(t("firmware.added", { name: firmware.name }));
      go("firmware", { product: firmware.product });
    } finally {
      setSent(null);
    }
  }

  const file = form.values.file;
  const options = products.map(({ key, name }) => [key, `${name} (${key})`]);
  const suggestion = file && form.error("file_name") ? mended(form.values.file_name) : null;
  return html`<form class="panel form narrow" ref=${form.element} onSubmit=${(event) => form.submit(event, add)}>
    <${Drop} file=${file} onFile=${take} label=${t("firmware.file")} hint=${t("firmware.file_hint")}
      accept=".bin,.rom,.zip,.gz,.tar" error=${form.error("file")} />
    ${file && html`<${Digest} md5=${md5} />`}
    <div class="stack">
      <${TextField} form=${form} name="file_name" label=${t("firmware.file_name")} hint=${t("rule.file_name")} />
      ${suggestion && html`<div><button type="button" onClick=${() => form.set("file_name", suggestion)}>${t("firmware.use_name", { name: suggestion })}</button></div>`}
    </div>
    <${SelectField} form=${form} name="product" label=${t("firmware.product")} options=${options} />
    <${TextField} form=${form} name="name" label=${t("firmware.name")} hint=${t("rule.firmware_name")} />
    <${TextField} form=${form} name="version" label=${t("firmware.version")} hint=${t("rule.firmware_version")} />
    <${TextField} form=${form} name="description" label=${t("firmware.description")} hint=${t("rule.firmware_description")} lines=${3} />
    <${Drop} file=${form.values.signature} onFile=${(chosen) => form.set("signature", chosen)} label=${t("firmware.signature")}
      hint=${t("firmware.signature_hint")} accept=".sig" error=${form.error("signature")} />
    <${Failure} text=${form.failure} />
    ${sent !== null && html`<${Progress} sent=${sent} total=${file.size} />`}
    <div class="actions">
      <button type="submit" class="primary" disabled=${form.busy}>${form.busy ? t("firmware.uploading") : t("firmware.add")}</button>
      ${sent !== null && html`<button type="button" onClick=${() => abort.current.abort()}>${t("action.cancel")}</button>`}
    </div>
  </form>`;
}

const Digest = ({ md5 }) => html`<p class="small quiet" role="status">
  ${md5.text ? html`MD5 <code>${md5.text}</code>` : t("firmware.digesting", { share: percent(md5.share, 1) })}</p>`;

function Progress({ sent, total }) {
  return html`<div class="field"><label>${t("firmware.progress", { sent: bytes(sent), total: bytes(total) })}
    <progress max=${total} value=${sent}>${percent(sent, total)}</progress></label></div>`;
}
