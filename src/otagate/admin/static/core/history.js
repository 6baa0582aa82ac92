/* How a batch went over time: [at in s, succeeded, failed, not ended], oldest first.

What happened before this page looked is made of the devices' completion times, up to a bound; later samples are the
batch's own counts as they were told, also while the look-up runs. Samples stay while the console is open, so coming
back to a batch shows them. */

import { part } from "./api.js";
import { everything } from "./fleet.js";

const LOOKED_UP_MAX = 5000;
const SAMPLES_MAX = 1500;
const known = new Map();
const lookedUp = new Set();

const seconds = (time) => Date.parse(time) / 1000;

/** The samples of a batch so far. */
export const samplesOf = (batch) => known.get(batch.id) ?? [];

/** Add the counts of now, or of the end of the batch. */
export function record(batch) {
  const samples = samplesOf(batch).length ? samplesOf(batch) : [[seconds(batch.created_at), 0, 0, batch.counts.total]];
  const { total, succeeded, failed } = batch.counts;
  const at = Math.max(batch.ended_at ? seconds(batch.ended_at) : Date.now() / 1000, samples.at(-1)[0] + 0.001);
  const last = samples.at(-1);
  if (batch.ended_at && last[1] === succeeded && last[2] === failed && samples.length > 1) return samples;
  const next = [...samples, [at, succeeded, failed, total - succeeded - failed]];
  known.set(batch.id, next.length > SAMPLES_MAX ? next.filter((_, index) => index % 2 === 0 || index === next.length - 1) : next);
  return known.get(batch.id);
}

/** The samples that completion times tell: `ended` are [time, succeeded], `total` devices in all. */
export function curve(createdAt, total, ended) {
  const samples = [[seconds(createdAt), 0, 0, total]];
  const step = Math.max(1, Math.floor(ended.length / 400));
  let succeeded = 0;
  ended.map(([time, good]) => [seconds(time), good]).sort(([a], [b]) => a - b).forEach(([at, good], index) => {
    if (good) succeeded += 1;
    if ((index + 1) % step !== 0 && index + 1 !== ended.length) return;
    const sample = [at, succeeded, index + 1 - succeeded, total - index - 1];
    if (at <= samples.at(-1)[0]) samples[samples.length - 1] = [samples.at(-1)[0], ...sample.slice(1)];
    else samples.push(sample);
  });
  return samples;
}

/** What was looked up, and the samples that were told meanwhile. */
export const joined = (past, later) => [...past, ...later.filter(([at]) => !past.length || at > past.at(-1)[0])];

/** Look up once what happened before; nothing for a batch of which too many devices have ended. */
export async function lookUp(batch, signal) {
  const { succeeded, failed, total } = batch.counts;
  if (lookedUp.has(batch.id) || succeeded + failed > LOOKED_UP_MAX) return;
  const path = `/batches/${part(batch.id)}/devices`;
  const ended = [];
  for (const state of ["succeeded", "failed"]) {
    if (batch.counts[state] === 0) continue;
    const { items } = await everything(path, { state }, { signal });
    ended.push(...items.filter((row) => row.completed_at).map((row) => [row.completed_at, state === "succeeded"]));
  }
  lookedUp.add(batch.id);
  const past = curve(batch.created_at, total, ended);
  known.set(batch.id, joined(past, samplesOf(batch)));
}
