/* One batch: what it is, how it goes, and each of its devices. Everything on it moves by itself. */

import { api, explain, part, send } from "../core/api.js";
import { hearing, listen } from "../core/feed.js";
import { operates } from "../core/fleet.js";
import { number, time } from "../core/format.js";
import { lookUp, record, samplesOf } from "../core/history.js";
import { language, t } from "../core/i18n.js";
import { href, setQuery } from "../core/router.js";
import { save } from "../core/save.js";
import { html, useEffect, useMemo, useRef, useState } from "../core/view.js";
import { Chart } from "../parts/chart.js";
import { say } from "../parts/dialog.js";
import { Facts, Head, LoadFailure } from "../parts/page.js";
import { Badge, done, Funnel, STATES } from "../parts/states.js";
import { Empty, Filter, ListTable, Search, useList } from "../parts/table.js";
import { columns, UpgradeDialog } from "../parts/upgrade.js";
import { abort } from "./batches.js";

const RELOAD_PAUSE_MS = 700;

export function BatchPage({ gateway, session, query, id }) {
  const { q = "", state = "", device = "" } = query;
  const [batch, setBatch] = useState(null);
  const [error, setError] = useState(null);
  const [changes, setChanges] = useState(0);
  const list = useList(`/batches/${part(id)}/devices`, { q, state });
  const current = useRef(list);
  const pending = useRef(0);
  const heard = useMemo(hearing, []);
  current.current = list;

  function take(view) {
    record(view);
    setBatch(view);
  }

  function reloadRows() {
    if (pending.current) return;
    pending.current = setTimeout(async () => {
      if (document.hidden) await new Promise((seen) => { document.addEventListener("visibilitychange", seen, { once: true }); });
      pending.current = 0;
      await current.current.reload();
      setChanges((count) => count + 1);
    }, RELOAD_PAUSE_MS);
  }

  function told(view) {
    heard.hear(view);
    take(view);
  }

  async function refresh(signal) {
    const asked = heard.now();
    try {
      const view = await api.get(`/batches/${part(id)}`, {}, signal);
      await lookUp(view, signal);
      take(heard.since(asked).get(view.id) ?? view);
      setError(null);
      reloadRows();
    } catch (failure) {
      if (!signal.aborted) setError(failure);
      throw failure;
    }
  }

  useEffect(() => {
    const upgrades = ({ changed, more }) => {
      const shown = new Set(current.current.items?.map(({ identifier }) => identifier));
      if (more || state || changed.some((identifier) => shown.has(identifier) || identifier === device)) reloadRows();
    };
    const stop = listen({ streams: gateway.offers.has("/events"), query: { batch: id }, handlers: { batch: told, upgrades }, refresh });
    return () => {
      stop();
      clearTimeout(pending.current);
      pending.current = 0;
    };
  }, [id, state, device]);

  const crumbs = [[t("nav.batches"), href("batches")]];
  if (!batch) return error ? html`<${Head} title=${id} crumbs=${crumbs} /><${LoadFailure} error=${error} />` : null;
  const running = batch.status === "in_progress";
  const title = `${batch.firmware.name} ${batch.firmware.version}`;
  return html`
    <${Head} title=${title} crumbs=${crumbs}>
      ${running && operates(session) && html`<button class="danger" onClick=${() => abort(batch, take)}>${t("batch.abort")}</button>`}
    <//>
    ${error && html`<p class="notice bad" role="alert">${explain(error)}</p>`}
    <${Summary} batch=${batch} />
    <${Progress} batch=${batch} />
    <section class="section">
      <div class="section-head"><h2>${t("batch.devices")}</h2></div>
      <${Rows} ...${{ batch, list, q, state }} />
    </section>
    ${device && html`<${UpgradeDialog} ...${{ batch, identifier: device, changes }} onClose=${() => setQuery({ device: "" })} />`}`;
}

function Summary({ batch }) {
  const { counts } = batch;
  return html`<div class="panel"><${Facts} items=${[
    [t("batch.batch"), html`<span class="mono">${batch.id}</span>`],
    [t("batch.status"), html`<${Badge} of=${batch.status} />`],
    [t("batch.firmware_name"), batch.firmware.name],
    [t("firmware.version"), batch.firmware.version],
    [t("firmware.md5"), html`<code>${batch.firmware.md5}</code>`, "wide"],
    [t("batch.product"), html`<a href=${href("devices", { product: batch.product.key })}>${batch.product.name}</a>`],
    [t("batch.range"), t(`range.${batch.range}`)],
    [t("batch.policy"), t(`policy.${batch.policy}`)],
    [t("batch.validity"), t("batch.validity_until", { count: batch.validity_days, at: time(batch.expires_at) })],
    [t("batch.timeout"), t("batch.minutes", { count: batch.timeout_minutes })],
    [t("batch.retries"), batch.retries
      ? t("batch.retries_every", { count: batch.retries, interval: t("batch.minutes", { count: batch.retry_interval_minutes }) })
      : number(0)],
    [t("batch.start"), time(batch.created_at)],
    [t("batch.end"), time(batch.ended_at)],
    [t("batch.total"), number(counts.total)],
    [t("batch.succeeded"), number(counts.succeeded)],
    [t("batch.failed"), number(counts.failed)],
  ]} /></div>`;
}

function Progress({ batch }) {
  const samples = samplesOf(batch);
  const times = useMemo(() => samples.map(([at]) => at), [samples]);
  const series = useMemo(() => [
    { label: t("batch.not_ended"), tone: "open", values: samples.map((sample) => sample[3]) },
    { label: t("batch.failed"), tone: "failed", values: samples.map((sample) => sample[2]) },
    { label: t("batch.succeeded"), tone: "succeeded", values: samples.map((sample) => sample[1]) },
  ], [samples, language()]);
  return html`<div class="panel stack">
    <div class="section-head"><h2>${t("batch.progress")}</h2><span class="quiet">${t("batch.done", { share: done(batch.counts) })}</span></div>
    <${Funnel} counts=${batch.counts} />
    <${Chart} title=${t("batch.over_time")} stacked times=${times} series=${series} most=${batch.counts.total} height=${160} />
  </div>`;
}

function Rows({ batch, list, q, state }) {
  const [saving, setSaving] = useState(false);
  const count = (value) => ` (${number(batch.counts[value])})`;
  const states = [["", t("list.any")], ...STATES.toReversed().map((value) => [value, t(`state.${value}`) + count(value)])];
  const exported = async () => {
    setSaving(true);
    try {
      const response = await send("GET", `/batches/${part(batch.id)}/devices`, { query: { q, state }, headers: { Accept: "text/csv" } });
      save(`${batch.id}.csv`, "text/csv", [await response.blob()]);
    } catch (error) {
      say(explain(error));
    } finally {
      setSaving(false);
    }
  };
  const empty = html`<${Empty} title=${t("batch.none_devices")}>
    ${(q || state) && html`<button onClick=${() => setQuery({ q: "", state: "" })}>${t("list.clear")}</button>`}<//>`;
  return html`
    <div class="filters">
      <${Search} value=${q} hint=${t("device.search_hint")} onChange=${(text) => setQuery({ q: text })} />
      <${Filter} label=${t("upgrade.state")} value=${state} options=${states} onChange=${(value) => setQuery({ state: value })} />
      <button disabled=${saving} onClick=${exported}>${t("batch.export")}</button>
    </div>
    <${ListTable} ...${{ list, empty }} columns=${columns((identifier) => setQuery({ device: identifier }))}
      rowKey=${(row) => row.identifier} label=${t("batch.devices")} />`;
}
