/* Which devices a directed batch is for: picked from the list of the eligible ones, pasted, or read from a file. */

import { explain, part } from "../core/api.js";
import { everything } from "../core/fleet.js";
import { has, t } from "../core/i18n.js";
import { limits } from "../core/limits.js";
import { check } from "../core/validation.js";
import { html, useId, useState } from "../core/view.js";
import { Connection } from "./states.js";
import { Clip, Empty, ListTable, Search, Table, useList } from "./table.js";

const NAMED_MAX = 200;

/** Identifiers of a text: one a line, or separated by commas or spaces; of CSV the first column, or `identifier`. */
export function identifiersOf(text) {
  const lines = text.replace(/^\ufeff/, "").split(/\r?\n/).filter((line) => line.trim());
  const header = (lines[0] ?? "").split(",").map((name) => name.trim().replace(/^"|"$/g, ""));
  const column = header.indexOf("identifier");
  const found = column < 0
    ? lines.flatMap((line) => line.split(/[\s,;]+/))
    : lines.slice(1).map((line) => line.split(",")[column] ?? "");
  return [...new Set(found.map((identifier) => identifier.trim().replace(/^"|"$/g, "")).filter(Boolean))];
}

/** The identifiers that keep the rule, and those that break it. */
export function sorted(identifiers) {
  const good = [];
  const bad = [];
  for (const identifier of identifiers) {
    try {
      good.push(check.identifier(identifier));
    } catch {
      bad.push(identifier);
    }
  }
  return { good, bad };
}

/** `selected` is a Set of identifiers. */
export function Selection({ firmware, selected, setSelected, rollback }) {
  const [pasting, setPasting] = useState(false);
  const tab = (chosen, text) => html`<button type="button" aria-pressed=${pasting === chosen ? "true" : "false"} onClick=${() => setPasting(chosen)}>${text}</button>`;
  return html`<section class="section">
    <div class="section-head">
      <h2>${t("selection.title")}</h2>
      <span class="quiet" role="status">${t("selection.selected", { count: selected.size })}</span>
      ${selected.size > 0 && html`<button type="button" class="plain" onClick=${() => setSelected(new Set())}>${t("selection.clear")}</button>`}
      <div class="segments end" role="group" aria-label=${t("selection.title")}>${tab(false, t("selection.list"))}${tab(true, t("selection.paste"))}</div>
    </div>
    ${selected.size > limits.directed_devices_max && html`<p class="error" role="alert">${t("rule.devices")}</p>`}
    ${pasting ? html`<${Paste} ...${{ selected, setSelected }} />` : html`<${Pick} ...${{ firmware, selected, setSelected, rollback }} />`}
  </section>`;
}

function Pick({ firmware, selected, setSelected, rollback }) {
  const [q, setQ] = useState("");
  const [walking, setWalking] = useState(null);
  const [failure, setFailure] = useState(null);
  const path = `/products/${part(firmware.product)}/devices`;
  const query = { eligible_for: firmware.id, allow_rollback: rollback || "", q };
  const list = useList(path, query, 25);
  const items = list.items ?? [];
  const toggle = (identifiers, on) => {
    const next = new Set(selected);
    for (const identifier of identifiers) on ? next.add(identifier) : next.delete(identifier);
    setSelected(next);
  };
  const all = async () => {
    setFailure(null);
    setWalking(0);
    try {
      const found = await everything(path, query, { onProgress: setWalking, most: limits.directed_devices_max });
      toggle(found.items.map(({ identifier }) => identifier), true);
    } catch (error) {
      setFailure(explain(error));
    } finally {
      setWalking(null);
    }
  };
  const names = items.map(({ identifier }) => identifier);
  const whole = names.length > 0 && names.every((name) => selected.has(name));
  const columns = [
    { key: "pick", label: t("selection.pick"), class: "tight", cell: ({ identifier }) => html`<input type="checkbox" checked=${selected.has(identifier)}
      aria-label=${t("selection.pick_one", { identifier })} onChange=${(event) => toggle([identifier], event.currentTarget.checked)} />` },
    { key: "identifier", label: t("device.identifier"), cell: ({ identifier }) => html`<span class="mono"><${Clip} text=${identifier} /></span>` },
    { key: "name", label: t("device.name"), cell: ({ name }) => html`<${Clip} text=${name} />` },
    { key: "version", label: t("device.version"), cell: ({ version }) => version ?? "–" },
    { key: "connection", label: t("device.connection"), cell: ({ connection }) => html`<${Connection} of=${connection} />` },
  ];
  const empty = html`<${Empty} title=${q ? t("device.none_found") : t("selection.none")}>${!q && html`<p>${t("selection.none_hint")}</p>`}<//>`;
  return html`
    <div class="filters"><${Search} value=${q} onChange=${setQ} hint=${t("device.search_hint")} />
      <div class="actions">
        <button type="button" disabled=${names.length === 0} onClick=${() => toggle(names, !whole)}>${whole ? t("selection.unpick_page") : t("selection.pick_page")}</button>
        <button type="button" disabled=${walking !== null || names.length === 0} onClick=${all}>${walking === null ? t("selection.pick_all") : t("selection.walking", { count: walking })}</button>
      </div></div>
    ${failure && html`<p class="error" role="alert">${failure}</p>`}
    <${ListTable} ...${{ list, columns, empty }} rowKey=${(device) => device.identifier} label=${t("selection.title")}
      rowClass=${({ identifier }) => (selected.has(identifier) ? "chosen" : "")} />`;
}

function Paste({ selected, setSelected }) {
  const id = useId();
  const [text, setText] = useState("");
  const { good, bad } = sorted(identifiersOf(text));
  const fresh = good.filter((identifier) => !selected.has(identifier));
  const read = async (event) => {
    const [file] = event.currentTarget.files;
    if (file) setText(await file.text());
  };
  const add = () => {
    setSelected(new Set([...selected, ...good]));
    setText(bad.join("\n"));
  };
  return html`<div class="panel form">
    <div class="field"><label for=${id}>${t("selection.identifiers")}</label>
      <textarea id=${id} class="mono" rows="6" value=${text} spellcheck=${false} onInput=${(event) => setText(event.currentTarget.value)} aria-describedby="${id}-hint" />
      <span class="hint" id="${id}-hint">${t("selection.identifiers_hint")}</span>
      ${bad.length > 0 && html`<span class="error" role="alert">${t("selection.bad", { count: bad.length, first: bad.slice(0, 3).join(", ") })} ${t("rule.identifier")}</span>`}
    </div>
    <div class="row"><label>${t("selection.file")} <input type="file" accept=".txt,.csv" onChange=${read} /></label>
      <button type="button" disabled=${fresh.length === 0} onClick=${add}>${t("selection.add", { count: fresh.length })}</button></div>
    ${selected.size > 0 && html`<${Named} ...${{ selected, setSelected }} />`}
  </div>`;
}

/** The first of the selected ones, each with a way to take it out. */
function Named({ selected, setSelected }) {
  const first = [...selected].slice(0, NAMED_MAX);
  const without = (identifier) => setSelected(new Set([...selected].filter((other) => other !== identifier)));
  return html`<details><summary>${t("selection.selected", { count: selected.size })}</summary>
    <ul class="row">${first.map((identifier) => html`<li key=${identifier}><span class="mono">${identifier}</span>
      <button type="button" class="plain risky" aria-label=${t("selection.take_out", { identifier })} onClick=${() => without(identifier)}>${t("selection.remove")}</button></li>`)}
      ${selected.size > first.length && html`<li class="quiet">${t("selection.more", { count: selected.size - first.length })}</li>`}</ul>
  </details>`;
}

/** Devices that the gateway refused, and why; one click takes them out of the selection. */
export function Ineligible({ devices, onDrop }) {
  const reason = (device) => (has(`reason.${device.reason}`) ? t(`reason.${device.reason}`) : device.message);
  const columns = [
    { key: "identifier", label: t("device.identifier"), cell: (device) => html`<span class="mono">${device.identifier}</span>` },
    { key: "reason", label: t("selection.reason"), cell: reason },
  ];
  return html`<section class="section" role="alert">
    <div class="section-head"><h2>${t("selection.ineligible", { count: devices.length })}</h2>
      <button type="button" class="end" onClick=${onDrop}>${t("selection.drop")}</button></div>
    <div class="panel flush"><${Table} items=${devices.slice(0, NAMED_MAX)} columns=${columns} rowKey=${(device) => device.identifier} label=${t("selection.ineligible", { count: devices.length })} /></div>
    ${devices.length > NAMED_MAX && html`<p class="quiet">${t("selection.more", { count: devices.length - NAMED_MAX })}</p>`}
  </section>`;
}
