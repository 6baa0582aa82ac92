/* What several pages ask for: all products, one firmware. And who may do what. */

import { api, part } from "./api.js";
import { useEffect, useState } from "./view.js";

/** Whether a session may change devices, firmware and batches. */
export const operates = (session) => session.role !== "viewer";

/** Whether it may change products too. */
export const administers = (session) => session.role === "admin";

/** All items of a list. */
export async function everything(path, query = {}, { signal, onProgress, most = Infinity } = {}) {
  const items = [];
  let cursor = null;
  do {
    const page = await api.get(path, { ...query, cursor, limit: 1000 }, signal);
    items.push(...page.items);
    cursor = page.next;
    onProgress?.(items.length);
  } while (cursor !== null && items.length < most);
  return { items, complete: cursor === null };
}

/** What `load` gives: {value, error}; anew when `asked` changes. */
export function useLoaded(load, asked) {
  const [state, setState] = useState({ value: null, error: null });
  useEffect(() => {
    let wanted = true;
    const abort = new AbortController();
    setState({ value: null, error: null });
    load(abort.signal).then(
      (value) => wanted && setState({ value, error: null }),
      (error) => wanted && setState({ value: null, error }),
    );
    return () => {
      wanted = false;
      abort.abort();
    };
  }, asked);
  return state;
}

/** All products: an array, or null until they are there. */
export function useProducts() {
  return useLoaded(async (signal) => (await everything("/products", {}, { signal })).items, []);
}

/** One firmware by its id. */
export const useFirmware = (id) => useLoaded((signal) => (id ? api.get(`/firmware/${part(id)}`, {}, signal) : Promise.resolve(null)), [id]);
