/* What the fleet does now: devices online, logins and pushes a second, the batches in progress. */

import { api, explain } from "../core/api.js";
import { hearing, listen } from "../core/feed.js";
import { bytes, number, rate, shortTime } from "../core/format.js";
import { joined } from "../core/history.js";
import { language, t } from "../core/i18n.js";
import { href } from "../core/router.js";
import { html, useEffect, useMemo, useRef, useState } from "../core/view.js";
import { Chart } from "../parts/chart.js";
import { Head } from "../parts/page.js";
import { done, Funnel } from "../parts/states.js";
import { Empty } from "../parts/table.js";

const HISTORY_S = 600;
const BATCHES_SHOWN = 20;

/** The last ten minutes as [at in s, devices online, logins a second, pushes a second], from the gateway's memory. */
export function historyOf(overview) {
  const { interval_s: interval, at, devices_online: online, logins, pushes } = overview.history;
  const end = Date.parse(at) / 1000;
  return online.map((devices, index) => [
    end - (online.length - 1 - index) * interval, devices, logins[index] / interval, pushes[index] / interval,
  ]);
}

/** The samples with one more, made of the difference of two totals; the oldest go. */
export function append(samples, before, now) {
  const seconds = (Date.parse(now.at) - Date.parse(before.at)) / 1000;
  if (!(seconds > 0)) return samples;
  const gained = (name) => Math.max(now[name] - before[name], 0) / seconds;
  const at = Date.parse(now.at) / 1000;
  const sample = [at, now.devices_online, gained("logins_total"), gained("pushes_total")];
  return [...samples.filter(([time]) => time > at - HISTORY_S && time < at), sample];
}

/** The batches in progress after one of them, or another, was told of. */
export function withBatch(shown, batch) {
  const others = shown.filter((other) => other.id !== batch.id);
  if (batch.status !== "in_progress") return others;
  const at = shown.findIndex((other) => other.id === batch.id);
  return at < 0 ? [batch, ...others].slice(0, BATCHES_SHOWN) : shown.toSpliced(at, 1, batch);
}

export function OverviewPage({ gateway }) {
  const [overview, setOverview] = useState(null);
  const [samples, setSamples] = useState([]);
  const [streamed, setStreamed] = useState(null);
  const [batches, setBatches] = useState(null);
  const [error, setError] = useState(null);
  const last = useRef(null);
  const complete = useRef(false);
  const heard = useMemo(hearing, []);
  const tells = gateway.offers.has("/overview");

  function take(now) {
    const before = last.current;
    last.current = now;
    setOverview((shown) => ({ ...shown, ...now }));
    if (!before) return;
    setSamples((shown) => append(shown, before, now));
    const seconds = (Date.parse(now.at) - Date.parse(before.at)) / 1000;
    if (seconds > 0) setStreamed(Math.max(now.bytes_streamed_total - before.bytes_streamed_total, 0) / seconds);
  }

  async function refresh(signal) {
    const asked = heard.now();
    try {
      const [view, page] = await Promise.all([
        tells ? api.get("/overview", {}, signal) : null,
        api.get("/batches", { status: "in_progress", limit: BATCHES_SHOWN }, signal),
      ]);
      setBatches([...heard.since(asked).values()].reduce(withBatch, page.items));
      setError(null);
      if (!view) return;
      if (!complete.current) setSamples((shown) => joined(historyOf(view), shown));
      complete.current = true;
      take({ ...view, at: new Date().toISOString() });
    } catch (failure) {
      if (!signal.aborted) setError(failure);
      throw failure;
    }
  }

  function takeBatch(batch) {
    heard.hear(batch);
    setBatches((shown) => shown && withBatch(shown, batch));
  }

  useEffect(() => listen({ streams: gateway.offers.has("/events"), query: {}, handlers: { overview: take, batch: takeBatch }, refresh }), []);

  const times = useMemo(() => samples.map(([at]) => at), [samples]);
  const column = (index) => samples.map((sample) => sample[index]);
  const online = useMemo(() => [{ label: t("overview.devices_online"), tone: "succeeded", values: column(1) }], [samples, language()]);
  const rates = useMemo(() => [
    { label: t("overview.logins"), tone: "upgrading", values: column(2) },
    { label: t("overview.pushes"), tone: "pushed", values: column(3) },
  ], [samples, language()]);
  const newest = samples.at(-1);
  return html`
    <${Head} title=${t("nav.overview")} />
    ${error && html`<p class="notice bad" role="alert">${explain(error)}</p>`}
    ${overview && html`<${Tiles} ...${{ overview, newest, streamed }} />`}
    ${tells && html`<div class="columns">
      <div class="panel"><${Chart} title=${t("overview.devices_online")} times=${times} series=${online} /></div>
      <div class="panel"><${Chart} title=${t("overview.rates")} times=${times} series=${rates} format=${rate} /></div>
    </div>`}
    <section class="section">
      <div class="section-head"><h2>${t("overview.batches")}</h2><a class="end" href=${href("batches")}>${t("overview.all_batches")}</a></div>
      ${batches && html`<div class="panel flush">
        ${batches.length === 0 && html`<${Empty} title=${t("overview.none")}><p>${t("overview.none_hint")}</p>
          <a class="button" href=${href("firmware")}>${t("nav.firmware")}</a><//>`}
        ${batches.map((batch) => html`<${BatchLine} key=${batch.id} batch=${batch} />`)}
      </div>`}
    </section>`;
}

function Tiles({ overview, newest, streamed }) {
  const tile = (name, value, more) => html`<div class="tile"><dt>${name}</dt><dd>${value} ${more && html`<small>${more}</small>`}</dd></div>`;
  const total = overview.devices_total == null ? null : t("overview.of", { count: overview.devices_total });
  return html`<dl class="tiles">
    ${tile(t("overview.devices_online"), number(overview.devices_online), total)}
    ${tile(t("overview.logins_rate"), rate(newest?.[2]), t("overview.a_second"))}
    ${tile(t("overview.pushes_rate"), rate(newest?.[3]), t("overview.a_second"))}
    ${tile(t("overview.transfers"), number(overview.transfers_running))}
    ${tile(t("overview.streamed"), bytes(streamed), streamed == null ? null : t("overview.a_second"))}
  </dl>`;
}

function BatchLine({ batch }) {
  return html`<div class="batch-line">
    <div><a href=${href("batches", batch.id)}>${batch.firmware.name} ${batch.firmware.version}</a>
      <div class="small quiet">${batch.product.name} · ${shortTime(batch.created_at)} · ${t("batch.done", { share: done(batch.counts) })}</div></div>
    <${Funnel} counts=${batch.counts} />
  </div>`;
}
