/* The devices of a product: search, filter, rename, give a new secret, delete. */

import { api, part } from "../core/api.js";
import { operates, useProducts } from "../core/fleet.js";
import { shortTime } from "../core/format.js";
import { t } from "../core/i18n.js";
import { href, setQuery } from "../core/router.js";
import { check } from "../core/validation.js";
import { html, useEffect, useState } from "../core/view.js";
import { ask, Dialog, say, Secret } from "../parts/dialog.js";
import { Failure, TextField, useForm } from "../parts/form.js";
import { Head, LoadFailure, NoProduct } from "../parts/page.js";
import { Connection } from "../parts/states.js";
import { Clip, Empty, Filter, ListTable, Search, useList } from "../parts/table.js";

const RELOAD_MS = 5000;

export function DevicesPage({ session, query }) {
  const { value: products, error } = useProducts();
  if (error) return html`<${LoadFailure} error=${error} />`;
  if (!products) return null;
  if (products.length === 0) {
    return html`<${Head} title=${t("nav.devices")} />
      <${NoProduct} />`;
  }
  const product = products.find(({ key }) => key === query.product)?.key ?? products[0].key;
  return html`<${Devices} key=${product} ...${{ session, query, products, product }} />`;
}

function Devices({ session, query, products, product }) {
  const { q = "", version = "", active = "", connection = "" } = query;
  const list = useList(`/products/${part(product)}/devices`, { q, version, active, connection });
  const [dialog, setDialog] = useState(null);
  const may = operates(session);
  useEffect(() => {
    const timer = setInterval(() => !document.hidden && list.reload(), RELOAD_MS);
    return () => clearInterval(timer);
  }, []);
  const filtered = Boolean(q || version || active || connection);
  const register = may && html`<a class="button primary" href=${href("devices", "register", { product })}>${t("device.register")}</a>`;
  const actions = { setDialog, remove: (device) => remove(device, list), rotate: (device) => rotate(device, setDialog) };
  const empty = filtered
    ? html`<${Empty} title=${t("device.none_found")}><button onClick=${() => setQuery({ q: "", version: "", active: "", connection: "" })}>${t("list.clear")}</button><//>`
    : html`<${Empty} title=${t("device.none")}><p>${t("device.none_hint")}</p>${register}<//>`;
  return html`
    <${Head} title=${t("nav.devices")}>${register}<//>
    <div class="filters">
      <${Filter} label=${t("device.product")} value=${product} onChange=${(key) => setQuery({ product: key })}
        options=${products.map(({ key, name }) => [key, name])} />
      <${Search} value=${q} hint=${t("device.search_hint")} onChange=${(text) => setQuery({ product, q: text })} />
      <${Search} brief value=${version} label=${t("device.version")} hint="1.0.0" onChange=${(text) => setQuery({ product, version: text })} />
      <${Filter} label=${t("device.state")} value=${active} onChange=${(value) => setQuery({ product, active: value })}
        options=${[["", t("list.any")], ["true", t("device.active")], ["false", t("device.inactive")]]} />
      <${Filter} label=${t("device.connection")} value=${connection} onChange=${(value) => setQuery({ product, connection: value })}
        options=${[["", t("list.any")], ["online", t("state.online")], ["offline", t("state.offline")]]} />
    </div>
    <${ListTable} ...${{ list, empty }} columns=${columnsOf(may, actions)} rowKey=${(device) => device.identifier} label=${t("nav.devices")} />
    ${dialog?.secret && html`<${SecretDialog} device=${dialog.secret} onClose=${() => setDialog(null)} />`}
    ${dialog?.rename && html`<${Rename} device=${dialog.rename} onClose=${() => setDialog(null)} onDone=${list.reload} />`}`;
}

function columnsOf(may, { setDialog, remove, rotate }) {
  return [
    { key: "identifier", label: t("device.identifier"), cell: (device) => html`<span class="mono"><${Clip} text=${device.identifier} /></span>` },
    { key: "name", label: t("device.name"), cell: (device) => html`<${Clip} text=${device.name} />` },
    { key: "connection", label: t("device.connection"), cell: (device) => html`<${Connection} of=${device.connection} />` },
    { key: "version", label: t("device.version"), cell: (device) => device.version ?? "–" },
    { key: "active", label: t("device.state"), cell: (device) => (device.active ? t("device.active") : t("device.inactive")) },
    { key: "last_seen", label: t("device.last_seen"), class: "keep", cell: (device) => shortTime(device.last_seen) },
    { key: "created_at", label: t("device.created_at"), class: "keep", cell: (device) => shortTime(device.created_at) },
    may && { key: "actions", label: "", class: "actions-cell", cell: (device) => html`
      <button class="plain" onClick=${() => setDialog({ rename: device })}>${t("device.rename")}</button>
      <button class="plain" onClick=${() => rotate(device)}>${t("device.rotate")}</button>
      <button class="plain risky" onClick=${() => remove(device)}>${t("action.delete")}</button>` },
  ].filter(Boolean);
}

const pathOf = (device) => `/products/${part(device.product)}/devices/${part(device.identifier)}`;

const remove = (device, list) => ask({
  title: t("device.delete_title", { identifier: device.identifier }),
  body: html`<p>${t("device.delete_rule")}</p>`,
  action: t("action.delete"), dangerous: true,
  run: async () => {
    await api.delete(pathOf(device));
    say(t("device.deleted", { identifier: device.identifier }));
    list.reload();
  },
});

const rotate = (device, setDialog) => ask({
  title: t("device.rotate_title", { identifier: device.identifier }),
  body: html`<p>${t("device.rotate_rule")}</p>`,
  action: t("device.rotate"), dangerous: true,
  run: async () => setDialog({ secret: await api.post(`${pathOf(device)}/secret`) }),
});

/** A device's secret, this once. */
export function SecretDialog({ device, onClose }) {
  return html`<${Dialog} title=${t("device.secret_title", { identifier: device.identifier })} onClose=${onClose}>
    <p>${t("device.secret_once")}</p>
    <${Secret} text=${device.secret} />
    <div class="actions"><button class="primary" onClick=${onClose}>${t("action.close")}</button></div>
  <//>`;
}

function Rename({ device, onClose, onDone }) {
  const form = useForm({ name: device.name }, { name: check.device_name });
  const rename = async (values) => {
    await api.patch(pathOf(device), values);
    onDone();
    onClose();
  };
  return html`<${Dialog} title=${t("device.rename_title", { identifier: device.identifier })} onClose=${onClose}>
    <form class="form" ref=${form.element} onSubmit=${(event) => form.submit(event, rename)}>
      <${TextField} form=${form} name="name" label=${t("device.name")} autofocus />
      <${Failure} text=${form.failure} />
      <div class="actions"><button type="button" onClick=${onClose}>${t("action.cancel")}</button>
        <button type="submit" class="primary" disabled=${form.busy}>${t("device.rename")}</button></div>
    </form>
  <//>`;
}
