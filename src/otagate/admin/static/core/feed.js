/* What changes, as it changes: the gateway's server-sent events, or asking every three seconds.

EventSource comes back by itself after a lost connection, and tells the gateway the last event that it saw
(Last-Event-ID). It gives up for good when the answer is an error; then we ask by ourselves, and try it anew now and
then. Every (re)opening asks once for the current state too, so that nothing rests on a complete stream. */

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

/** Listen to events until the returned function is called.

`query` chooses them; `handlers` are by event, called with the decoded data; `refresh` is called when the current
state has to be asked for; it may return a promise, whose failure shows as "reconnecting". */
export function listen({ streams, query, handlers, refresh }) {
  let source = null;
  let timer = 0;
  let retry = 0;
  let ended = false;
  let opened = false;

  async function ask() {
    try {
      await refresh();
      if (ended) return;
      if (!source) showFeed(POLLING);
      else if (source.readyState === EventSource.OPEN) showFeed(LIVE);
    } catch {
      if (!ended) showFeed(RECONNECTING);
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
      if (opened) ask();
      opened = true;
      clearTimeout(timer);
      showFeed(LIVE);
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

  ask();
  if (streams) open();
  else poll();
  return () => {
    ended = true;
    clearTimeout(timer);
    clearTimeout(retry);
    source?.close();
    showFeed(null);
  };
}
