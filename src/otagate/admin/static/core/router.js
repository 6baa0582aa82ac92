/* Which page is shown: the part of the address after "#", as a path and a query.

Filters and pages of lists live there too, so that back, reload and a copied address show the same again. */

import { useEffect, useState } from "./view.js";

// An address may be typed, or cut short in a mail: what is no percent-encoding stands for itself.
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** {path: ["batches", "b1"], query: {state: "failed"}} of an address's hash. */
export function parse(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
  const parts = path.split("/").filter(Boolean).map(decoded);
  return { path: parts, query: Object.fromEntries(new URLSearchParams(query)) };
}

/** The hash of a page: href("batches", id) or href("devices", {product: "lamp"}). */
export function href(...parts) {
  const query = typeof parts.at(-1) === "object" ? parts.pop() : {};
  const present = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const search = new URLSearchParams(present).toString();
  return `#/${parts.map(encodeURIComponent).join("/")}${search ? `?${search}` : ""}`;
}

/** Go to a page. */
export const go = (...parts) => {
  location.hash = href(...parts);
};

/** Change some of the query of this page, without a step in the history. */
export function setQuery(changes) {
  const { path, query } = parse(location.hash);
  history.replaceState(null, "", href(...path, { ...query, ...changes }));
  dispatchEvent(new HashChangeEvent("hashchange"));
}

/** The page in the address, kept up to date. */
export function useRoute() {
  const [route, setRoute] = useState(() => parse(location.hash));
  useEffect(() => {
    const update = () => setRoute(parse(location.hash));
    addEventListener("hashchange", update);
    return () => removeEventListener("hashchange", update);
  }, []);
  return route;
}
