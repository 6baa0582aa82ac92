/* Addresses that the gateway tells when something happened. */

import { api, part } from "../core/api.js";
import { t } from "../core/i18n.js";
import { Broken } from "../core/validation.js";
import { html, useState } from "../core/view.js";
import { ask, Dialog, say, Secret } from "../parts/dialog.js";
import { Failure, TextField, useForm } from "../parts/form.js";
import { Head } from "../parts/page.js";
import { Clip, Empty, ListTable, useList } from "../parts/table.js";

const EVENTS = ["batch_ended", "device_failed", "batch_stalled"];

export function WebhooksPage() {
  const list = useList("/webhooks");
  const [creating, setCreating] = useState(false);
  const create = html`<button class="primary" onClick=${() => setCreating(true)}>${t("webhook.create")}</button>`;
  const remove = (webhook) => ask({
    title: t("webhook.delete_title"), body: html`<p>${webhook.url}</p>`, action: t("action.delete"), dangerous: true,
    run: async () => {
      await api.delete(`/webhooks/${part(webhook.id)}`);
      say(t("webhook.deleted"));
      list.reload();
    },
  });
  const test = (webhook) => ask({
    title: t("webhook.test"), body: html`<p>${t("webhook.test_rule", { url: webhook.url })}</p>`, action: t("webhook.test"),
    run: async () => {
      await api.post(`/webhooks/${part(webhook.id)}/test`);
      say(t("webhook.tested"));
    },
  });
  const columns = [
    { key: "url", label: t("webhook.url"), class: "wide", cell: ({ url }) => html`<${Clip} text=${url} />` },
    { key: "events", label: t("webhook.events"), cell: ({ events }) => html`<span class="row">${events.map((event) => html`<span class="tag">${t(`event.${event}`)}</span>`)}</span>` },
    { key: "actions", label: "", class: "actions-cell", cell: (webhook) => html`
      <button class="plain" onClick=${() => test(webhook)}>${t("webhook.test")}</button>
      <button class="plain risky" onClick=${() => remove(webhook)}>${t("action.delete")}</button>` },
  ];
  return html`
    <${Head} title=${t("nav.webhooks")}>${create}<//>
    <p class="lead">${t("webhook.lead")}</p>
    <${ListTable} ...${{ list, columns }} empty=${html`<${Empty} title=${t("webhook.none")}><p>${t("webhook.none_hint")}</p>${create}<//>`}
      rowKey=${(webhook) => webhook.id} label=${t("nav.webhooks")} />
    ${creating && html`<${Create} onClose=${() => setCreating(false)} onDone=${list.reload} />`}`;
}

function address(value) {
  try {
    if (["http:", "https:"].includes(new URL(value.trim()).protocol)) return value.trim();
  } catch {
    // Not a URL at all.
  }
  throw new Broken("webhook_url");
}

function Create({ onClose, onDone }) {
  const some = (events) => {
    if (events.length === 0) throw new Broken("webhook_events");
    return events;
  };
  const form = useForm({ url: "https://", events: ["batch_ended"] }, { url: address, events: some });
  const [made, setMade] = useState(null);
  const create = async (values) => {
    setMade(await api.create("/webhooks", values));
    onDone();
  };
  const toggle = (event, on) => form.set("events", EVENTS.filter((other) => (other === event ? on : form.values.events.includes(other))));
  if (made) {
    return html`<${Dialog} title=${t("webhook.made_title")} onClose=${onClose}>
      <p>${t("webhook.once")}</p><${Secret} text=${made.secret} />
      <div class="actions"><button class="primary" onClick=${onClose}>${t("action.close")}</button></div><//>`;
  }
  return html`<${Dialog} title=${t("webhook.create")} onClose=${onClose}>
    <form class="form" ref=${form.element} onSubmit=${(event) => form.submit(event, create)}>
      <${TextField} form=${form} name="url" label=${t("webhook.url")} hint=${t("webhook.url_hint")} autofocus />
      <fieldset class="field"><legend class="label">${t("webhook.events")}</legend>
        <div class="choices">${EVENTS.map((event) => html`<label class="choice"><input type="checkbox" name="events" checked=${form.values.events.includes(event)}
          onChange=${(change) => toggle(event, change.currentTarget.checked)} /><span>${t(`event.${event}`)}</span></label>`)}</div>
        ${form.error("events") && html`<span class="error" role="alert">${form.error("events")}</span>`}
      </fieldset>
      <${Failure} text=${form.failure} />
      <div class="actions"><button type="button" onClick=${onClose}>${t("action.cancel")}</button>
        <button type="submit" class="primary" disabled=${form.busy}>${t("webhook.create")}</button></div>
    </form>
  <//>`;
}
