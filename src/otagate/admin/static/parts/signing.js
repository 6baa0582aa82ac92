/* A product's signing keys: whether its firmware must be signed, and by which keys. For administrators. */

import { api, part } from "../core/api.js";
import { shortTime } from "../core/format.js";
import { t } from "../core/i18n.js";
import { html, useState } from "../core/view.js";
import { ask, Dialog, say } from "./dialog.js";
import { Failure, TextField, useForm } from "./form.js";
import { Empty, ListTable, useList } from "./table.js";

/** `onChange(product)` is told of the product that the gateway has now. */
export function SigningDialog({ product, onChange, onClose }) {
  const path = `/products/${part(product.key)}`;
  const list = useList(`${path}/signing-keys`);
  const [required, setRequired] = useState(product.require_signature);
  const form = useForm({ public_key: "", name: "", require_signature: "" });
  const revoke = (key) => ask({
    title: t("signing.revoke_title", { id: key.id }),
    body: html`<p>${t("signing.revoke_rule")}</p>`,
    action: t("signing.revoke"), dangerous: true,
    run: async () => {
      await api.delete(`${path}/signing-keys/${part(key.id)}`);
      list.reload();
    },
  });
  const add = async (values) => {
    const key = await api.create(`${path}/signing-keys`, { public_key: values.public_key, name: values.name });
    say(t("signing.added", { id: key.id }));
    form.set("public_key", "");
    form.set("name", "");
    list.reload();
  };
  const require = (event) => {
    const wanted = event.currentTarget.checked;
    form.submit(null, async () => {
      setRequired(wanted);
      try {
        onChange(await api.patch(path, { require_signature: wanted }));
      } catch (error) {
        setRequired(!wanted);
        throw error;
      }
    });
  };
  const columns = [
    { key: "id", label: t("signing.id"), cell: (key) => html`<code>${key.id}</code>` },
    { key: "name", label: t("signing.name"), cell: (key) => key.name || "–" },
    { key: "created_at", label: t("signing.created_at"), class: "keep", cell: (key) => shortTime(key.created_at) },
    { key: "revoked_at", label: t("signing.revoked_at"), class: "keep", cell: (key) => shortTime(key.revoked_at) },
    { key: "actions", label: "", class: "actions-cell", cell: (key) =>
      !key.revoked_at && html`<button type="button" class="plain risky" onClick=${() => revoke(key)}>${t("signing.revoke")}</button>` },
  ];
  const broken = form.error("require_signature");
  return html`<${Dialog} title=${t("signing.title", { name: product.name })} onClose=${onClose} large>
    <label class="choice"><input type="checkbox" name="require_signature" checked=${required} onChange=${require} />
      <span>${t("signing.require")}<br /><span class="hint">${t("signing.require_hint")}</span></span></label>
    ${broken && html`<p class="error" role="alert">${broken}</p>`}
    <${ListTable} ...${{ list, columns }} empty=${html`<${Empty} title=${t("signing.none")} />`} rowKey=${(key) => key.id} label=${t("signing.keys")} />
    <form class="form" ref=${form.element} onSubmit=${(event) => form.submit(event, add)}>
      <${TextField} form=${form} name="public_key" label=${t("signing.public_key")} hint=${t("signing.public_key_hint")} lines=${4} mono />
      <${TextField} form=${form} name="name" label=${t("signing.name")} />
      <${Failure} text=${form.failure} />
      <div class="actions"><button type="button" onClick=${onClose}>${t("action.close")}</button>
        <button type="submit" class="primary" disabled=${form.busy || !form.values.public_key}>${t("signing.add")}</button></div>
    </form>
  <//>`;
}
