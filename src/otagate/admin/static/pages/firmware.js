/* The firmware of all products: list, search, and from each the way to a batch upgrade. */

import { api, part } from "../core/api.js";
import { operates, useProducts } from "../core/fleet.js";
import { bytes, shortTime } from "../core/format.js";
import { t } from "../core/i18n.js";
import { href, setQuery } from "../core/router.js";
import { html } from "../core/view.js";
import { ask, say } from "../parts/dialog.js";
import { Head } from "../parts/page.js";
import { Clip, Empty, Filter, ListTable, Search, useList } from "../parts/table.js";

export function FirmwarePage({ session, query }) {
  const { q = "", product = "" } = query;
  const { value: products } = useProducts();
  const list = useList("/firmware", { q, product });
  const may = operates(session);
  const add = may && html`<a class="button primary" href=${href("firmware", "add", { product })}>${t("firmware.add")}</a>`;
  const empty = q || product
    ? html`<${Empty} title=${t("firmware.none_found")}><button onClick=${() => setQuery({ q: "", product: "" })}>${t("list.clear")}</button>${product && add}<//>`
    : html`<${Empty} title=${t("firmware.none")}><p>${t("firmware.none_hint")}</p>${add}<//>`;
  const names = Object.fromEntries((products ?? []).map(({ key, name }) => [key, name]));
  return html`
    <${Head} title=${t("nav.firmware")}>${add}<//>
    <div class="filters">
      <${Search} value=${q} hint=${t("firmware.search_hint")} onChange=${(text) => setQuery({ q: text })} />
      <${Filter} label=${t("firmware.product")} value=${product} onChange=${(key) => setQuery({ product: key })}
        options=${[["", t("list.any")], ...(products ?? []).map(({ key, name }) => [key, name])]} />
    </div>
    <${ListTable} ...${{ list, empty }} columns=${columnsOf(may, names, list)} rowKey=${(firmware) => firmware.id} label=${t("nav.firmware")} />`;
}

function columnsOf(may, names, list) {
  return [
    { key: "id", label: t("firmware.id"), cell: ({ id }) => html`<${Clip} hash text=${id} />` },
    { key: "name", label: t("firmware.name"), cell: ({ name }) => html`<${Clip} text=${name} />` },
    { key: "version", label: t("firmware.version"), cell: ({ version }) => html`<${Clip} text=${version} />` },
    { key: "product", label: t("firmware.product"), cell: ({ product }) => html`<${Clip} text=${names[product] ?? product} />` },
    { key: "file_name", label: t("firmware.file_name"), cell: ({ file_name: name }) => html`<${Clip} text=${name} />` },
    { key: "size", label: t("firmware.size"), class: "number keep", cell: ({ size }) => html`<span title=${size}>${bytes(size)}</span>` },
    { key: "md5", label: t("firmware.md5"), cell: ({ md5 }) => html`<${Clip} hash text=${md5} />` },
    { key: "description", label: t("firmware.description"), cell: ({ description }) => (description ? html`<${Clip} text=${description} />` : "–") },
    { key: "signature", label: t("firmware.signed_by"), cell: ({ signature }) => (signature ? html`<${Clip} hash text=${signature.key} />` : "–") },
    { key: "created_at", label: t("firmware.created_at"), class: "keep", cell: (firmware) => shortTime(firmware.created_at) },
    { key: "actions", label: "", class: "actions-cell", cell: (firmware) => html`
      ${may && html`<a class="button plain" href=${href("batches", "new", { firmware: firmware.id })}>${t("firmware.upgrade")}</a>`}
      <a class="button plain" href=${href("batches", { firmware: firmware.id })}>${t("firmware.batches")}</a>
      ${may && html`<button class="plain risky" onClick=${() => remove(firmware, list)}>${t("action.delete")}</button>`}` },
  ];
}

const remove = (firmware, list) => ask({
  title: t("firmware.delete_title", { name: firmware.name }),
  body: html`<p>${t("firmware.delete_rule")}</p>`,
  action: t("action.delete"), dangerous: true,
  run: async () => {
    await api.delete(`/firmware/${part(firmware.id)}`);
    say(t("firmware.deleted", { name: firmware.name }));
    list.reload();
  },
});
