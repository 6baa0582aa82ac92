/* Lists: a table, its pages by the gateway's cursors, and what shows when it is empty.

Only the rows of one page are ever in the document, whatever the length of the list. */

import { api, explain } from "../core/api.js";
import { number } from "../core/format.js";
import { t } from "../core/i18n.js";
import { html, useCallback, useEffect, useId, useRef, useState } from "../core/view.js";

const SEARCH_PAUSE_MS = 250;
const REQUESTS_A_PAGE_MAX = 20;

/** One page of a list: {items, next}. The gateway's pages may be short: it is asked until ours is full. */
async function fetchPage(path, query, cursor, limit, signal) {
  const items = [];
  for (let request = 0; request < REQUESTS_A_PAGE_MAX; request++) {
    const page = await api.get(path, { ...query, cursor, limit: limit - items.length }, signal);
    items.push(...page.items);
    cursor = page.next;
    if (cursor === null || items.length >= limit) break;
  }
  return { items, next: cursor };
}

/** A list by pages. `path` null waits; `reload` asks for the same page again, quietly. Answers may overtake each other:
one that was asked for before the one that is shown is dropped. */
export function useList(path, query = {}, size = matchMedia("(max-width: 700px)").matches ? 25 : 50) {
  const [limit, setLimit] = useState(size);
  const [cursors, setCursors] = useState([null]);
  const [page, setPage] = useState({ items: null, next: null, error: null, loading: true });
  const asked = `${path} ${JSON.stringify(query)} ${limit}`;
  const current = useRef({});
  const order = useRef({ asked: 0, shown: 0 });
  const shownFor = useRef(asked);
  if (shownFor.current !== asked) {
    shownFor.current = asked;
    if (cursors.length > 1) setCursors([null]);
  }
  const cursor = cursors.at(-1);
  current.current = { path, query, cursor, limit, asked };

  const load = useCallback(async (signal) => {
    const want = current.current;
    if (want.path === null) return;
    const number = ++order.current.asked;
    const show = (result) => {
      const outdated = current.current.cursor !== want.cursor || current.current.asked !== want.asked;
      if (outdated || number < order.current.shown) return;
      order.current.shown = number;
      setPage({ ...result, loading: false });
    };
    try {
      show({ ...await fetchPage(want.path, want.query, want.cursor, want.limit, signal), error: null });
    } catch (error) {
      if (error.name !== "AbortError") show({ items: null, next: null, error });
    }
  }, []);

  useEffect(() => {
    const abort = new AbortController();
    setPage((shown) => ({ ...shown, loading: true }));
    load(abort.signal);
    return () => abort.abort();
  }, [asked, cursor]);

  return {
    ...page, limit, setLimit, number: cursors.length,
    forward: page.next === null ? null : () => setCursors([...cursors, page.next]),
    back: cursors.length > 1 ? () => setCursors(cursors.slice(0, -1)) : null,
    reload: () => load(),
  };
}

/** A table of a list. `columns` are {key, label, cell(item), class?}; `empty` shows when there is nothing. */
export function ListTable({ list, columns, rowKey, empty, label, rowClass, paged = true }) {
  if (list.error) {
    return html`<div class="panel"><div class="notice bad" role="alert">${explain(list.error)}
      <span class="actions"><button onClick=${list.reload}>${t("action.retry")}</button></span></div></div>`;
  }
  if (list.items === null) return html`<div class="panel"><p class="empty" role="status">${t("list.loading")}</p></div>`;
  if (list.items.length === 0 && list.number === 1) return html`<div class="panel">${empty}</div>`;
  return html`<div class="panel flush">
    <${Table} ...${{ columns, rowKey, label, rowClass }} items=${list.items} />
    ${paged && html`<${Pager} list=${list} />`}
  </div>`;
}

/** The table alone. */
export function Table({ items, columns, rowKey, label, rowClass }) {
  return html`<div class="table-box"><table class="cards" aria-label=${label}>
    <thead><tr>${columns.map((column) => html`<th scope="col" class=${column.class ?? ""}>
      ${column.label || html`<span class="hidden-text">${t("list.actions")}</span>`}</th>`)}</tr></thead>
    <tbody>${items.map((item) => html`<tr key=${rowKey(item)} class=${rowClass?.(item) ?? ""}>
      ${columns.map((column) => cell(column, column.cell(item)))}
    </tr>`)}</tbody>
  </table></div>`;
}

/** A cell; one without a value has no line on a narrow screen. */
const cell = ({ key, label, class: className = "" }, content) =>
  html`<td key=${key} class="${className} ${content === "–" ? "none" : ""}" data-label=${label}>${content}</td>`;

function Pager({ list }) {
  const id = useId();
  if (list.number === 1 && list.forward === null && list.items.length <= 10) return null;
  return html`<nav class="pager" aria-label=${t("list.pages")}>
    <span>${t("list.page", { page: list.number, count: list.items.length })}</span>
    <span class="end">
      <label class="small quiet" for=${id}>${t("list.size")}</label>
      <select id=${id} onChange=${(event) => list.setLimit(Number(event.currentTarget.value))}>
        ${[25, 50, 100, 200].map((size) => html`<option value=${size} selected=${size === list.limit}>${number(size)}</option>`)}
      </select>
      <button disabled=${!list.back} onClick=${list.back}>${t("list.back")}</button>
      <button disabled=${!list.forward} onClick=${list.forward}>${t("list.forward")}</button>
    </span>
  </nav>`;
}

/** Nothing here: why, and what to do next. */
export const Empty = ({ title, children }) => html`<div class="empty"><strong>${title}</strong>${children}</div>`;

/** A search text that is told after a pause in typing. */
export function Search({ value, onChange, label, hint, brief }) {
  const id = useId();
  const [text, setText] = useState(value);
  const timer = useRef(0);
  useEffect(() => setText(value), [value]);
  const input = (event) => {
    const typed = event.currentTarget.value;
    setText(typed);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => onChange(typed.trim()), SEARCH_PAUSE_MS);
  };
  return html`<div class="field search ${brief ? "brief" : ""}"><label for=${id}>${label ?? t("list.search")}</label>
    <input id=${id} type="search" value=${text} placeholder=${hint} maxlength="200" onInput=${input} autocomplete="off" /></div>`;
}

/** One of some as a filter; the first is all. */
export function Filter({ label, value, options, onChange }) {
  const id = useId();
  return html`<div class="field"><label for=${id}>${label}</label>
    <select id=${id} onChange=${(event) => onChange(event.currentTarget.value)}>
      ${options.map(([key, text]) => html`<option value=${key} selected=${key === value}>${text}</option>`)}
    </select></div>`;
}

/** A long text, cut on screen and whole when pointed at. */
export const Clip = ({ text, hash }) => html`<span class="clip ${hash ? "hash mono" : ""}" title=${text}>${text}</span>`;
