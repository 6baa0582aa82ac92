/* States of devices, upgrades and batches: their order, names and colours; and how many are in each. */

import { number, percent } from "../core/format.js";
import { t } from "../core/i18n.js";
import { html } from "../core/view.js";

/** From the last to the first step, as a bar fills. */
export const STATES = ["succeeded", "failed", "upgrading", "to_be_upgraded", "pushed", "to_be_retried", "to_be_pushed"];

/** A state or status with its colour. */
export const Badge = ({ of, text, hollow }) => html`<span class="badge ${of} ${hollow ? "hollow" : ""}">${text ?? t(`state.${of}`)}</span>`;

/** Online or offline. */
export const Connection = ({ of }) => html`<${Badge} of=${of} hollow=${of === "offline"} />`;

/** How many devices of a batch are where, as one bar. */
export function Bar({ counts, slim }) {
  const present = STATES.filter((state) => counts[state] > 0);
  const label = present.map((state) => `${t(`state.${state}`)} ${number(counts[state])}`).join(", ");
  return html`<div class="bar ${slim ? "slim" : ""}" role="img" aria-label=${label}>
    ${present.map((state) => html`<i key=${state} class=${state} style=${{ width: `${(counts[state] / counts.total) * 100}%` }} />`)}
  </div>`;
}

/** The bar with its numbers. */
export function Funnel({ counts }) {
  return html`<div class="funnel">
    <${Bar} counts=${counts} />
    <div class="legend">
      ${STATES.filter((state) => counts[state] > 0 || state === "succeeded" || state === "failed").map((state) => html`
        <span key=${state} class="key ${state}">${t(`state.${state}`)} <b>${number(counts[state])}</b></span>`)}
    </div>
  </div>`;
}

/** Devices of a batch that have ended, as a share. */
export const done = (counts) => percent(counts.succeeded + counts.failed, counts.total);
