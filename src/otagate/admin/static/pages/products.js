/* Kinds of device: list, create, delete. */

import { api, part } from "../core/api.js";
import { administers } from "../core/fleet.js";
import { shortTime } from "../core/format.js";
import { t } from "../core/i18n.js";
import { href } from "../core/router.js";
import { check } from "../core/validation.js";
import { html, useState } from "../core/view.js";
import { ask, Dialog, say } from "../parts/dialog.js";
import { Failure, SelectField, TextField, useForm } from "../parts/form.js";
import { Head } from "../parts/page.js";
import { SigningDialog } from "../parts/signing.js";
import { Empty, ListTable, useList } from "../parts/table.js";

export function ProductsPage({ session }) {
  const list = useList("/products");
  const [creating, setCreating] = useState(false);
  const [signing, setSigning] = useState(null);
  const may = administers(session);
  const create = may && html`<button class="primary" onClick=${() => setCreating(true)}>${t("product.create")}</button>`;
  const remove = (product) => ask({
    title: t("product.delete_title", { name: product.name }),
    body: html`<p>${t("product.delete_rule")}</p>`,
    action: t("action.delete"), dangerous: true,
    run: async () => {
      await api.delete(`/products/${part(product.key)}`);
      say(t("product.deleted", { name: product.name }));
      list.reload();
    },
  });
  const columns = [
    { key: "key", label: t("product.key"), cell: (product) => html`<a class="mono" href=${href("devices", { product: product.key })}>${product.key}</a>` },
    { key: "name", label: t("product.name"), cell: (product) => product.name },
    { key: "auth", label: t("product.auth"), cell: (product) => t(`auth.${product.auth}`) },
    { key: "require_signature", label: t("product.firmware"), cell: (product) => (product.require_signature ? t("product.signed_only") : t("product.signed_or_not")) },
    { key: "created_at", label: t("product.created_at"), class: "keep", cell: (product) => shortTime(product.created_at) },
    { key: "actions", label: "", class: "actions-cell", cell: (product) => html`
      <a class="button plain" href=${href("devices", { product: product.key })}>${t("nav.devices")}</a>
      <a class="button plain" href=${href("firmware", { product: product.key })}>${t("nav.firmware")}</a>
      ${may && html`<button class="plain" onClick=${() => setSigning(product)}>${t("signing.keys")}</button>`}
      ${may && html`<button class="plain risky" onClick=${() => remove(product)}>${t("action.delete")}</button>`}` },
  ];
  const empty = html`<${Empty} title=${t("product.none")}><p>${t("product.none_hint")}</p>${create}<//>`;
  return html`
    <${Head} title=${t("nav.products")}>${create}<//>
    <${ListTable} ...${{ list, columns, empty }} rowKey=${(product) => product.key} label=${t("nav.products")} />
    ${signing && html`<${SigningDialog} product=${signing} onChange=${() => list.reload()} onClose=${() => setSigning(null)} />`}
    ${creating && html`<${Create} onClose=${() => setCreating(false)} onDone=${() => list.reload()} />`}`;
}

function Create({ onClose, onDone }) {
  const form = useForm({ key: "", name: "", auth: "secret" }, { key: check.product_key, name: check.product_name });
  const create = async (values) => {
    const product = await api.create("/products", values);
    say(t("product.created", { name: product.name }));
    onDone();
    onClose();
  };
  const methods = ["secret", "certificate", "both"].map((method) => [method, t(`auth.${method}`)]);
  return html`<${Dialog} title=${t("product.create")} onClose=${onClose}>
    <form class="form" ref=${form.element} onSubmit=${(event) => form.submit(event, create)}>
      <${TextField} form=${form} name="key" label=${t("product.key")} hint=${t("product.key_hint")} mono autofocus />
      <${TextField} form=${form} name="name" label=${t("product.name")} />
      <${SelectField} form=${form} name="auth" label=${t("product.auth")} hint=${t("product.auth_hint")} options=${methods} />
      <${Failure} text=${form.failure} />
      <div class="actions"><button type="button" onClick=${onClose}>${t("action.cancel")}</button>
        <button type="submit" class="primary" disabled=${form.busy}>${t("product.create")}</button></div>
    </form>
  <//>`;
}
