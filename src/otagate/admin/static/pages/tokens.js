/* Who may ask the gateway for what: tokens, each with a role. Shown once, revoked at once. */

import { api, part } from "../core/api.js";
import { shortTime } from "../core/format.js";
import { t } from "../core/i18n.js";
import { limits } from "../core/limits.js";
import { Broken, check, wholeNumber } from "../core/validation.js";
import { html, useState } from "../core/view.js";
import { ask, Dialog, say, Secret } from "../parts/dialog.js";
import { Choices, Failure, NumberField, TextField, useForm } from "../parts/form.js";
import { Head } from "../parts/page.js";
import { Empty, ListTable, useList } from "../parts/table.js";

const ROLES = ["viewer", "operator", "admin"];

export function TokensPage() {
  const list = useList("/tokens");
  const [creating, setCreating] = useState(false);
  const create = html`<button class="primary" onClick=${() => setCreating(true)}>${t("token.create")}</button>`;
  const revoke = (token) => ask({
    title: t("token.revoke_title", { name: token.name }),
    body: html`<p>${t("token.revoke_rule")}</p>`,
    action: t("token.revoke"), dangerous: true,
    run: async () => {
      await api.delete(`/tokens/${part(token.id)}`);
      say(t("token.revoked", { name: token.name }));
      list.reload();
    },
  });
  const columns = [
    { key: "name", label: t("token.name"), cell: (token) => token.name },
    { key: "role", label: t("token.role"), cell: (token) => t(`role.${token.role}`) },
    { key: "created_at", label: t("token.created_at"), class: "keep", cell: (token) => shortTime(token.created_at) },
    { key: "expires_at", label: t("token.expires_at"), class: "keep", cell: (token) => (token.expires_at ? shortTime(token.expires_at) : t("token.never")) },
    { key: "last_used_at", label: t("token.last_used_at"), class: "keep", cell: (token) => shortTime(token.last_used_at) },
    { key: "revoked_at", label: t("token.revoked_at"), class: "keep", cell: (token) => shortTime(token.revoked_at) },
    { key: "actions", label: "", class: "actions-cell", cell: (token) =>
      !token.revoked_at && html`<button class="plain risky" onClick=${() => revoke(token)}>${t("token.revoke")}</button>` },
  ];
  return html`
    <${Head} title=${t("nav.tokens")}>${create}<//>
    <p class="lead">${t("token.lead")}</p>
    <${ListTable} ...${{ list, columns }} empty=${html`<${Empty} title=${t("token.none")}>${create}<//>`} rowKey=${(token) => token.id} label=${t("nav.tokens")} />
    ${creating && html`<${Create} onClose=${() => setCreating(false)} onDone=${list.reload} />`}`;
}

function days(value) {
  if (value === "") return null;
  const whole = wholeNumber(value);
  if (!(whole >= 1 && whole <= limits.token_days_max)) throw new Broken("expires_in_days");
  return whole;
}

const named = (value) => check.token_name(value.trim());

function Create({ onClose, onDone }) {
  const form = useForm({ name: "", role: "operator", expires_in_days: "" }, { name: named, expires_in_days: days });
  const [made, setMade] = useState(null);
  const create = async ({ expires_in_days: expires, ...values }) => {
    setMade(await api.create("/tokens", { ...values, ...(expires !== null && { expires_in_days: expires }) }));
    onDone();
  };
  if (made) {
    return html`<${Dialog} title=${t("token.made_title", { name: made.name })} onClose=${onClose}>
      <p>${t("token.once")}</p><${Secret} text=${made.token} />
      <div class="actions"><button class="primary" onClick=${onClose}>${t("action.close")}</button></div><//>`;
  }
  return html`<${Dialog} title=${t("token.create")} onClose=${onClose}>
    <form class="form" ref=${form.element} onSubmit=${(event) => form.submit(event, create)}>
      <${TextField} form=${form} name="name" label=${t("token.name")} hint=${t("token.name_hint")} autofocus />
      <${Choices} form=${form} name="role" label=${t("token.role")} options=${ROLES.map((role) => [role, t(`role.${role}`), t(`role.${role}_hint`)])} />
      <${NumberField} form=${form} name="expires_in_days" label=${t("token.expires_in")} unit=${t("unit.days")} hint=${t("token.expires_hint")} least=${1} most=${limits.token_days_max} />
      <${Failure} text=${form.failure} />
      <div class="actions"><button type="button" onClick=${onClose}>${t("action.cancel")}</button>
        <button type="submit" class="primary" disabled=${form.busy}>${t("token.create")}</button></div>
    </form>
  <//>`;
}
