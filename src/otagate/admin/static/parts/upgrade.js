/* One device in one batch: as a row, and with its timeline. */

import { api, explain, part } from "../core/api.js";
import { number, shortTime, time, waiting } from "../core/format.js";
import { has, t } from "../core/i18n.js";
import { html, useEffect, useState } from "../core/view.js";
import { Dialog } from "./dialog.js";
import { Facts } from "./page.js";
import { Badge, Connection } from "./states.js";
import { Clip } from "./table.js";

const known = (key, fallback) => (has(key) ? t(key) : fallback);

/** How far a device is: its stage and percentage while it works, else why nothing happens. */
function situation(upgrade) {
  if (upgrade.waiting_for) return html`<span class="quiet">${waiting(upgrade.waiting_for)}</span>`;
  if (upgrade.state !== "upgrading") return null;
  return html`<span class="progress"><progress max="100" value=${upgrade.progress} aria-label=${t("upgrade.progress")} />
    <span class="keep">${upgrade.stage ? `${known(`stage.${upgrade.stage}`, upgrade.stage)} ` : ""}${number(upgrade.progress)}%</span></span>`;
}

const remark = (upgrade) => (upgrade.remark ? html`<span title=${upgrade.detail ?? ""}>${known(`remark.${upgrade.remark}`, upgrade.remark)}</span>` : null);

/** The columns of the batch details; `open` shows a device's timeline. */
export const columns = (open) => [
  { key: "identifier", label: t("device.identifier"), cell: ({ identifier }) => html`<button class="plain mono" onClick=${() => open(identifier)}><${Clip} text=${identifier} /></button>` },
  { key: "name", label: t("device.name"), cell: ({ name }) => html`<${Clip} text=${name} />` },
  { key: "connection", label: t("device.connection"), cell: ({ connection }) => html`<${Connection} of=${connection} />` },
  { key: "state", label: t("upgrade.state"), cell: ({ state }) => html`<${Badge} of=${state} />` },
  { key: "situation", label: t("upgrade.situation"), class: "wide", cell: (upgrade) => situation(upgrade) ?? "–" },
  { key: "remark", label: t("upgrade.remark"), cell: (upgrade) => remark(upgrade) ?? "–" },
  { key: "retries", label: t("upgrade.retries"), class: "number", cell: ({ retries }) => `${number(retries.current)}/${number(retries.maximum)}` },
  { key: "version", label: t("upgrade.version"), cell: ({ version }) => version ?? "–" },
  { key: "completed_at", label: t("upgrade.completed_at"), class: "keep", cell: (upgrade) => shortTime(upgrade.completed_at) },
];

/** A device's upgrade with its timeline, read anew whenever `changes` grows. */
export function UpgradeDialog({ batch, identifier, changes, onClose }) {
  const [upgrade, setUpgrade] = useState(null);
  const [error, setError] = useState(null);
  useEffect(() => {
    const abort = new AbortController();
    api.get(`/batches/${part(batch.id)}/devices/${part(identifier)}`, {}, abort.signal)
      .then((found) => setUpgrade(found), (failure) => failure.name !== "AbortError" && setError(failure));
    return () => abort.abort();
  }, [identifier, changes]);
  return html`<${Dialog} large title=${identifier} onClose=${onClose}>
    ${error && html`<p class="notice bad" role="alert">${explain(error)}</p>`}
    ${upgrade && html`<${Details} upgrade=${upgrade} />`}
    <div class="actions"><button class="primary" onClick=${onClose}>${t("action.close")}</button></div>
  <//>`;
}

function Details({ upgrade }) {
  const facts = [
    [t("device.name"), upgrade.name || "–"],
    [t("device.connection"), html`<${Connection} of=${upgrade.connection} />`],
    [t("upgrade.state"), html`<${Badge} of=${upgrade.state} />`],
    [t("upgrade.situation"), situation(upgrade) ?? "–"],
    [t("upgrade.retries"), `${number(upgrade.retries.current)}/${number(upgrade.retries.maximum)}`],
    [t("upgrade.version"), upgrade.version ?? "–"],
    upgrade.remark && [t("upgrade.remark"), remark(upgrade)],
    upgrade.detail && [t("upgrade.detail"), upgrade.detail],
  ];
  return html`<${Facts} items=${facts} />
    <h2>${t("upgrade.timeline")}</h2>
    ${upgrade.timeline.length === 0 && html`<p class="quiet">${t("upgrade.nothing_yet")}</p>`}
    <ol class="timeline">${upgrade.timeline.map((entry) => html`<li class=${entry.state}>
      <b>${t(`state.${entry.state}`)}</b><span class="quiet small keep">${time(entry.at)}</span>
      <span class="small quiet">${known(`cause.${entry.cause}`, entry.cause.replaceAll("_", " "))}${entry.remark ? ` · ${known(`remark.${entry.remark}`, entry.remark)}` : ""}</span>
      <span class="small quiet">${entry.attempt > 0 && t("upgrade.attempt", { attempt: entry.attempt })}</span>
    </li>`)}</ol>`;
}
