/* Plots over time, drawn by uPlot: lines, or areas stacked on each other.

Its legend is ours: it tells the newest values, or those under the pointer. Colours are the style sheet's, read anew
when the theme changes. */

import { clock, number } from "../core/format.js";
import { html, useEffect, useRef, useState } from "../core/view.js";
import uPlot from "../vendor/uPlot.mjs";

const WHOLE_STEPS = Array.from({ length: 12 }, (_, power) => [1, 2, 5].map((digit) => digit * 10 ** power)).flat();

/** The colour of a custom property as it is now. */
function colour(name) {
  const probe = document.createElement("span");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

const faded = (value, alpha) => value.replace(/^rgba?\(([^)]*)\)$/, (_, parts) => `rgba(${parts.split(",").slice(0, 3)}, ${alpha})`);

/** Each series on top of those after it: the first one's values become the whole height. */
function stack(series) {
  const sums = series.map((values) => [...values]);
  for (let level = sums.length - 2; level >= 0; level--) {
    sums[level] = sums[level].map((value, at) => value + sums[level + 1][at]);
  }
  return sums;
}

/** Of texts that repeat the one before nothing: two ticks within one second show one time. */
const once = (texts) => texts.map((text, at) => (text === texts[at - 1] ? "" : text));

/** `times` in seconds; `series` are {label, tone, values}; `format` shows a value. Stacked: the first is on top. */
export function Chart({ title, times, series, stacked, format = number, height = 180, most }) {
  const box = useRef(null);
  const plot = useRef(null);
  const [pointed, setPointed] = useState(null);
  const [look, setLook] = useState(0);

  useEffect(() => {
    const change = () => setLook((count) => count + 1);
    const system = matchMedia("(prefers-color-scheme: dark)");
    addEventListener("themechange", change);
    system.addEventListener("change", change);
    return () => {
      removeEventListener("themechange", change);
      system.removeEventListener("change", change);
    };
  }, []);

  useEffect(() => {
    const axis = { stroke: colour("quiet"), grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line"), size: 4 }, font: `12px ${getComputedStyle(document.body).fontFamily}` };
    const options = {
      width: box.current.clientWidth || 300, height, legend: { show: false }, padding: [8, 20, 0, 0],
      cursor: { y: false, drag: { x: false, y: false }, points: { show: !stacked } },
      scales: { y: { range: (_, low, high) => [0, Math.max(most ?? 0, high * 1.05, 1)] } },
      axes: [
        { ...axis, space: 90, size: 30, values: (_, splits) => once(splits.map((at) => clock(new Date(at * 1000)))) },
        { ...axis, size: 52, incrs: WHOLE_STEPS, values: (_, splits) => splits.map((value) => format(value)) },
      ],
      series: [{}, ...series.map(({ tone }) => {
        const stroke = colour(tone);
        return stacked
          ? { stroke, width: 1, fill: stroke, points: { show: false } }
          : { stroke, width: 1.5, fill: faded(stroke, 0.12), points: { show: false } };
      })],
      hooks: { setCursor: [(drawn) => setPointed(drawn.cursor.idx ?? null)] },
    };
    plot.current = new uPlot(options, data(), box.current);
    const observer = new ResizeObserver(([entry]) => plot.current?.setSize({ width: entry.contentRect.width, height }));
    observer.observe(box.current);
    return () => {
      observer.disconnect();
      plot.current.destroy();
      plot.current = null;
    };
  }, [look, series.map(({ tone }) => tone).join(), height, most]);

  function data() {
    const values = series.map((one) => one.values);
    return [times, ...(stacked ? stack(values) : values)];
  }

  useEffect(() => plot.current?.setData(data()), [times, series]);

  const at = pointed !== null && pointed < times.length ? pointed : times.length - 1;
  return html`<div class="stack" role="group" aria-label=${title}>
    <div class="chart-head">
      <h2>${title}</h2>
      <div class="legend">
        ${pointed !== null && at >= 0 && html`<span class="quiet">${clock(new Date(times[at] * 1000))}</span>`}
        ${series.map(({ label, tone, values }) => html`<span class="key ${tone === "open" ? "open-state" : tone}">${label} <b>${at >= 0 ? format(values[at]) : "–"}</b></span>`)}
      </div>
    </div>
    <div class="chart" ref=${box} />
  </div>`;
}
