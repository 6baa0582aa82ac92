/* A batch upgrade: one firmware for all eligible devices of its product, or for those that are named. */

import { api, part } from "../core/api.js";
import { everything, useFirmware, useLoaded } from "../core/fleet.js";
import { bytes, shortTime } from "../core/format.js";
import { t } from "../core/i18n.js";
import { limits } from "../core/limits.js";
import { go, href, setQuery } from "../core/router.js";
import { check, wholeNumber } from "../core/validation.js";
import { html, useEffect, useState } from "../core/view.js";
import { Choices, Failure, NumberField, useForm } from "../parts/form.js";
import { Facts, Head, LoadFailure } from "../parts/page.js";
import { Ineligible, Selection } from "../parts/selection.js";
import { say } from "../parts/dialog.js";
import { Empty, Filter } from "../parts/table.js";

const COUNTED_MAX = 10_000;

export function BatchNewPage({ query }) {
  const { value: firmware, error } = useFirmware(query.firmware);
  const { value: all } = useLoaded(async (signal) => (await everything("/firmware", {}, { signal })).items, []);
  const head = html`<${Head} title=${t("batch.create")} crumbs=${[[t("nav.batches"), href("batches")]]} />`;
  if (error) return html`${head}<${LoadFailure} error=${error} />`;
  if (!all) return head;
  if (all.length === 0) {
    return html`${head}<div class="panel"><${Empty} title=${t("firmware.none")}><p>${t("firmware.none_hint")}</p>
      <a class="button primary" href=${href("firmware", "add")}>${t("firmware.add")}</a><//></div>`;
  }
  const options = [["", t("batch.choose_firmware")], ...all.map(({ id, name, version, product }) => [id, `${name} · ${version} · ${product}`])];
  return html`${head}
    <div class="panel stack narrow">
      <${Filter} label=${t("batch.firmware")} value=${query.firmware ?? ""} options=${options} onChange=${(id) => setQuery({ firmware: id })} />
      ${firmware && html`<${Facts} items=${[
        [t("firmware.version"), firmware.version], [t("firmware.product"), firmware.product],
        [t("firmware.size"), bytes(firmware.size)], [t("firmware.md5"), html`<code>${firmware.md5}</code>`, "wide"],
        firmware.signature && [t("firmware.signed_by"), html`<code>${firmware.signature.key}</code>`],
        firmware.signature && [t("firmware.expires_at"), shortTime(firmware.signature.expires_at)],
      ]} />`}
    </div>
    ${firmware && html`<${Upgrade} key=${firmware.id} firmware=${firmware} />`}`;
}

const whole = (rule) => (value) => check[rule](wholeNumber(value));

function Upgrade({ firmware }) {
  const [selected, setSelected] = useState(new Set());
  const [ineligible, setIneligible] = useState(null);
  const form = useForm(
    { range: "all", validity_days: "7", policy: "standard", timeout_minutes: "60", retries: "2", retry_interval_minutes: "10", allow_rollback: false },
    {
      validity_days: whole("validity_days"),
      timeout_minutes: whole("timeout_minutes"),
      retries: whole("retries"),
      retry_interval_minutes: (value, { retries }) => (retries === "0" ? null : check.retry_interval_minutes(wholeNumber(value))),
    },
  );
  const directed = form.values.range === "directed";
  const rollback = form.values.allow_rollback;
  const create = async ({ retry_interval_minutes: interval, allow_rollback: _, ...values }) => {
    setIneligible(null);
    if (directed && (selected.size < 1 || selected.size > limits.directed_devices_max)) throw new Error(t("rule.devices"));
    const body = {
      ...values, firmware: firmware.id,
      ...(interval !== null && { retry_interval_minutes: interval }),
      ...(directed && { devices: [...selected] }),
      ...(rollback && { allow_rollback: true }),
    };
    try {
      const batch = await api.create("/batches", body);
      say(t("batch.started", { count: batch.counts.total }));
      go("batches", batch.id);
    } catch (error) {
      if (Array.isArray(error.details)) setIneligible(error.details);
      throw error;
    }
  };
  const drop = () => {
    setSelected(new Set([...selected].filter((identifier) => !ineligible.some((device) => device.identifier === identifier))));
    setIneligible(null);
  };
  const explained = (name, values) => values.map((value) => [value, t(`${name}.${value}`), t(`${name}.${value}_hint`)]);
  return html`<form class="stack" ref=${form.element} onSubmit=${(event) => form.submit(event, create)}>
    <div class="panel form narrow">
      <${Choices} form=${form} name="policy" label=${t("batch.policy")} options=${explained("policy", ["standard", "silent"])} />
      <div class="fields">
        <${NumberField} form=${form} name="validity_days" label=${t("batch.validity")} unit=${t("unit.days")} hint=${t("batch.validity_hint")}
          least=${limits.validity_days_min} most=${limits.validity_days_max} />
        <${NumberField} form=${form} name="timeout_minutes" label=${t("batch.timeout")} unit=${t("unit.minutes")} hint=${t("batch.timeout_hint")}
          least=${limits.timeout_minutes_min} most=${limits.timeout_minutes_max} />
        <${NumberField} form=${form} name="retries" label=${t("batch.retries")} hint=${t("batch.retries_hint")} least=${0} most=${limits.retries_max} />
        ${form.values.retries !== "0" && html`<${NumberField} form=${form} name="retry_interval_minutes" label=${t("batch.retry_interval")}
          unit=${t("unit.minutes")} hint=${t("batch.retry_interval_hint")} least=${limits.retry_interval_minutes_min} most=${limits.retry_interval_minutes_max} />`}
      </div>
      <${Choices} form=${form} name="range" label=${t("batch.range")} options=${explained("range", ["all", "directed"])} />
      ${firmware.signature?.not_before.length > 0 && html`<label class="choice">
        <input type="checkbox" name="allow_rollback" checked=${rollback} onChange=${(event) => form.set("allow_rollback", event.currentTarget.checked)} />
        <span>${t("batch.allow_rollback")}<br /><span class="hint">${t("batch.allow_rollback_hint", { versions: firmware.signature.not_before.join(", ") })}</span></span>
      </label>`}
    </div>
    ${directed && html`<${Selection} ...${{ firmware, selected, setSelected, rollback }} />`}
    ${ineligible && html`<${Ineligible} devices=${ineligible} onDrop=${drop} />`}
    <${Failure} text=${form.failure} />
    <${Summary} ...${{ firmware, directed, selected, rollback, busy: form.busy }} />
  </form>`;
}

/** How many devices, and how many bytes they will fetch. */
function Summary({ firmware, directed, selected, rollback, busy }) {
  const [eligible, setEligible] = useState(null);
  useEffect(() => {
    const abort = new AbortController();
    const path = `/products/${part(firmware.product)}/devices`;
    everything(path, { eligible_for: firmware.id, allow_rollback: rollback || "" }, { signal: abort.signal, most: COUNTED_MAX })
      .then(({ items, complete }) => setEligible({ count: items.length, complete }), () => {});
    return () => abort.abort();
  }, [firmware.id, rollback]);
  const count = directed ? selected.size : eligible?.count;
  const some = directed || eligible?.complete ? "" : t("batch.at_least");
  const text = count === undefined
    ? t("batch.counting")
    : count === 0 && !directed ? t("selection.none") : `${some}${t("batch.summary", { count, bytes: bytes(count * firmware.size) })}`;
  return html`<div class="panel row narrow foot">
    <span role="status"><b>${text}</b>${directed && eligible && html`<br /><span class="quiet">${t("batch.eligible", { count: eligible.count })}${eligible.complete ? "" : "+"}</span>`}</span>
    <span class="actions end"><button type="submit" class="primary" disabled=${busy || count === 0}>${busy ? t("batch.creating") : t("batch.begin")}</button></span>
  </div>`;
}
