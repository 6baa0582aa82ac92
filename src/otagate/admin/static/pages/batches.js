/* Batches, newest first: of one firmware, of one product, or all. Their counts move as devices report. */

import { api, part } from "../core/api.js";
import { hearing, listen } from "../core/feed.js";
import { operates, useFirmware, useProducts } from "../core/fleet.js";
import { number, shortTime } from "../core/format.js";
import { t } from "../core/i18n.js";
import { href, setQuery } from "../core/router.js";
import { html, useEffect, useRef, useState } from "../core/view.js";
import { ask, say } from "../parts/dialog.js";
import { Head } from "../parts/page.js";
import { Badge, Bar } from "../parts/states.js";
import { Clip, Empty, Filter, ListTable, useList } from "../parts/table.js";

export const STATUSES = ["in_progress", "completed", "aborted"];

export function BatchesPage({ gateway, session, query }) {
  const { firmware = "", product = "", status = "" } = query;
  const { value: products } = useProducts();
  const { value: only } = useFirmware(firmware);
  const list = useList("/batches", { firmware, product, status });
  const newest = useNewest(gateway, list);
  const may = operates(session);
  const create = may && html`<a class="button primary" href=${href("batches", "new", { firmware })}>${t("batch.create")}</a>`;
  const filtered = Boolean(product || status || firmware);
  const clear = () => setQuery({ firmware: "", product: "", status: "" });
  const empty = filtered
    ? html`<${Empty} title=${t("batch.none_found")}><button onClick=${clear}>${t("list.clear")}</button>${firmware && create}<//>`
    : html`<${Empty} title=${t("batch.none")}><p>${t("batch.none_hint")}</p>${create}<//>`;
  const shown = { ...list, items: list.items?.map((batch) => newest.get(batch.id) ?? batch) ?? null };
  return html`
    <${Head} title=${t("nav.batches")}>${create}<//>
    <div class="filters">
      <${Filter} label=${t("batch.product")} value=${product} onChange=${(key) => setQuery({ product: key })}
        options=${[["", t("list.any")], ...(products ?? []).map(({ key, name }) => [key, name])]} />
      <${Filter} label=${t("batch.status")} value=${status} onChange=${(value) => setQuery({ status: value })}
        options=${[["", t("list.any")], ...STATUSES.map((value) => [value, t(`state.${value}`)])]} />
      ${firmware && html`<div class="row"><span>${t("batch.of_firmware", { name: only ? `${only.name} ${only.version}` : firmware })}</span>
        <button onClick=${() => setQuery({ firmware: "" })}>${t("list.all")}</button></div>`}
    </div>
    <${ListTable} list=${shown} empty=${empty} columns=${columnsOf(may, list.reload)} rowKey=${(batch) => batch.id} label=${t("nav.batches")} />`;
}

/** The states of batches that the feed told since the list was asked for, by id; the list is asked again for one that
it does not have. */
function useNewest(gateway, list) {
  const [newest, setNewest] = useState(new Map());
  const current = useRef(list);
  current.current = list;
  useEffect(() => {
    const heard = hearing();
    const batch = (view) => {
      heard.hear(view);
      setNewest((known) => new Map(known).set(view.id, view));
      const { items, number: page, reload } = current.current;
      if (page === 1 && items && !items.some(({ id }) => id === view.id) && view.status === "in_progress") reload();
    };
    const refresh = async (signal) => {
      const asked = heard.now();
      await current.current.reload();
      if (!signal.aborted) setNewest(heard.since(asked));
    };
    return listen({ streams: gateway.offers.has("/events"), query: {}, handlers: { batch }, refresh });
  }, []);
  return newest;
}

function columnsOf(may, reload) {
  const count = (key) => ({ key, label: t(`batch.${key}`), class: "number", cell: ({ counts }) => number(counts[key]) });
  return [
    { key: "id", label: t("batch.batch"), cell: ({ id }) => html`<a class="mono" href=${href("batches", id)}><${Clip} hash text=${id} /></a>` },
    { key: "firmware", label: t("batch.firmware"), cell: ({ firmware }) => html`<${Clip} text="${firmware.name} ${firmware.version}" />` },
    { key: "product", label: t("batch.product"), cell: ({ product }) => html`<${Clip} text=${product.name} />` },
    { key: "created_at", label: t("batch.start"), class: "keep", cell: (batch) => shortTime(batch.created_at) },
    { key: "ended_at", label: t("batch.end"), class: "keep", cell: (batch) => shortTime(batch.ended_at) },
    count("total"), count("succeeded"), count("failed"),
    { key: "progress", label: t("batch.progress"), cell: ({ counts }) => html`<${Bar} slim counts=${counts} />` },
    { key: "status", label: t("batch.status"), cell: ({ status }) => html`<${Badge} of=${status} />` },
    { key: "actions", label: "", class: "actions-cell", cell: (batch) => html`
      <a class="button plain" href=${href("batches", batch.id)}>${t("batch.view")}</a>
      ${may && batch.status === "in_progress" && html`<button class="plain risky" onClick=${() => abort(batch, reload)}>${t("batch.abort")}</button>`}` },
  ];
}

/** Ask, then abort a batch. */
export const abort = (batch, onDone) => ask({
  title: t("batch.abort_title", { name: `${batch.firmware.name} ${batch.firmware.version}` }),
  body: html`<p>${t("batch.abort_rule", { count: batch.counts.total - batch.counts.succeeded - batch.counts.failed })}</p>`,
  action: t("batch.abort"), dangerous: true,
  run: async () => {
    const aborted = await api.post(`/batches/${part(batch.id)}/abort`);
    say(t("batch.aborted"));
    onDone(aborted);
  },
});
