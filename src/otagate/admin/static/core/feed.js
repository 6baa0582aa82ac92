/* What changes, as it changes: the gateway's server-sent events, or asking every three seconds.

EventSource comes back by itself after a lost connection, and tells the gateway the last event that it saw
(Last-Event-ID). It gives up for good when the answer is an error; then we ask by ourselves, and try it anew now and
then. Every (re)opening asks once for the current state too, so that nothing rests on a complete stream.

Answers and events come by different ways, so an answer may be older than what was told while it was on its way; then
what was told stands (`hearing`). Of two answers the one asked for later counts: asking anew gives up the one before. */

import { address } from "./api.js";

const POLL_MS = 3000;
const RETRY_MS = 15000;

/** The states of a feed, for people to see. */
export const LIVE = "live";
export const RECONNECTING = "reconnecting";
export const POLLING = "polling";

let shown = null;
const watchers = new Set();

/** The state of the feed of this page; null where nothing moves by itself. */
export const feedState = () => shown;

/** Call back when it changes; returns how to stop. */
export function watchFeed(callback) {
  watchers.add(callback);
  return () => watchers.delete(callback);
}

/** Show how well we hear from the gateway. */
export function showFeed(state) {
  shown = state;
  watchers.forEach((watcher) => watcher());
}

/** What events told of things with an `id`. `since(now())` of before a request is what was told during it: newer than
the answer, because a change after that is told again. */
export function hearing() {
  let count = 0;
  const told = new Map();
  return {
    hear(thing) {
      count += 1;
      told.set(thing.id, [count, thing]);
    },
    now: () => count,
    since: (then) => new Map([...told].filter(([, [at]]) => at > then).map(([id, [, thing]]) => [id, thing])),
  };
}

/** Listen to events until the returned function is called.

`query` chooses them; `handlers` are by event, called with the decoded data; `refresh(signal)` is called when the
current state has to be asked for; it may return a promise, whose failure shows as "reconnecting", but for a 404: what
is not there will not come, so nothing is asked any more. It is called again before that has ended if the state may
have changed unheard; the signal of the earlier one is aborted then. */
export function listen({ streams, query, handlers, refresh }) {
  let source = null;
  let timer = 0;
  let retry = 0;
  let ended = false;
  let asking = null;

  async function ask() {
    asking?.abort();
    asking = new AbortController();
    const { signal } = asking;
    try {
      await refresh(signal);
      if (signal.aborted) return;
      if (!source) showFeed(POLLING);
      else if (source.readyState === EventSource.OPEN) showFeed(LIVE);
    } catch (failure) {
      if (failure.status === 404) stop();
      else if (!signal.aborted) showFeed(RECONNECTING);
    }
  }

  function poll() {
    if (ended) return;
    timer = setTimeout(async () => {
      if (!document.hidden) await ask();
      poll();
    }, POLL_MS);
  }

  function open() {
    source = new EventSource(address("/events", query), { withCredentials: false });
    source.onopen = () => {
      clearTimeout(timer);
      showFeed(LIVE);
      ask();
    };
    source.onerror = () => {
      showFeed(RECONNECTING);
      if (source.readyState !== EventSource.CLOSED) return;
      source = null;
      clearTimeout(timer);
      poll();
      retry = setTimeout(() => {
        clearTimeout(timer);
        open();
      }, RETRY_MS);
    };
    for (const [event, handler] of Object.entries(handlers)) {
      source.addEventListener(event, ({ data }) => handler(JSON.parse(data)));
    }
  }

  function stop() {
    ended = true;
    asking?.abort();
    clearTimeout(timer);
    clearTimeout(retry);
    source?.close();
    showFeed(null);
  }

  ask();
  if (streams) open();
  else poll();
  return stop;
}
