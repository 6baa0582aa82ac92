/* Who did what: the audit log, newest first, whether it is whole, and an export of it. */

import { api, explain, send } from "../core/api.js";
import { number, time } from "../core/format.js";
import { t } from "../core/i18n.js";
import { setQuery } from "../core/router.js";
import { save } from "../core/save.js";
import { html, useState } from "../core/view.js";
import { say } from "../parts/dialog.js";
import { Head } from "../parts/page.js";
import { Clip, Empty, ListTable, Search, useList } from "../parts/table.js";

export function AuditPage({ query }) {
  const { actor = "", action = "" } = query;
  const list = useList("/audit", { actor, action });
  const [verdict, setVerdict] = useState(null);
  const guarded = (act) => async () => {
    try {
      await act();
    } catch (error) {
      say(explain(error));
    }
  };
  const verify = guarded(async () => setVerdict(await api.get("/audit/verify")));
  const exported = guarded(async () => {
    const response = await send("GET", "/audit", { query: { actor, action }, headers: { Accept: "application/x-ndjson" } });
    save("audit.ndjson", "application/x-ndjson", [await response.blob()]);
  });
  const columns = [
    { key: "number", label: t("audit.number"), class: "number", cell: (entry) => number(entry.number) },
    { key: "at", label: t("audit.at"), class: "keep", cell: (entry) => time(entry.at) },
    { key: "actor", label: t("audit.actor"), cell: (entry) => `${entry.actor}${entry.role ? ` (${entry.role})` : ""}` },
    { key: "action", label: t("audit.action"), cell: (entry) => html`<code>${entry.action}</code>` },
    { key: "target", label: t("audit.target"), cell: (entry) => html`<${Clip} text=${entry.target ?? "–"} />` },
    { key: "details", label: t("audit.details"), class: "wide", cell: (entry) => html`<${Clip} text=${detailsOf(entry.details)} />` },
    { key: "address", label: t("audit.address"), cell: (entry) => entry.address ?? "–" },
    { key: "hash", label: t("audit.hash"), cell: (entry) => html`<${Clip} hash text=${entry.hash} />` },
  ];
  return html`
    <${Head} title=${t("nav.audit")}>
      <button onClick=${verify}>${t("audit.verify")}</button><button onClick=${exported}>${t("audit.export")}</button>
    <//>
    <p class="lead">${t("audit.lead")}</p>
    ${verdict && html`<p class="notice ${verdict.intact ? "" : "bad"}" role="status">${verdict.intact
      ? t("audit.intact", { count: verdict.entries })
      : t("audit.broken", { number: verdict.first_broken })}</p>`}
    <div class="filters">
      <${Search} label=${t("audit.actor")} value=${actor} onChange=${(text) => setQuery({ actor: text })} />
      <${Search} label=${t("audit.action")} value=${action} onChange=${(text) => setQuery({ action: text })} />
    </div>
    <${ListTable} ...${{ list, columns }} empty=${html`<${Empty} title=${t("audit.none")} />`} rowKey=${(entry) => entry.number} label=${t("nav.audit")} />`;
}

function detailsOf(details) {
  if (details === null || details === undefined) return "–";
  if (typeof details !== "object") return String(details);
  const shown = Object.entries(details).map(([name, value]) => `${name}: ${typeof value === "object" ? JSON.stringify(value) : value}`);
  return shown.join(" · ") || "–";
}
