/* Who is logged in.

POST /session trades a token for a cookie that no script can read. A gateway whose API document knows no such path is
asked with the token itself, kept in memory: a reload of the page then asks for it again. */

import { api, ApiError, setCredentials } from "./api.js";

/** What this gateway offers, from its API document: the paths below /api/v1 and the version. */
export async function discover() {
  const response = await fetch(new URL("openapi.json", document.baseURI), { cache: "no-store" });
  const document_ = await response.json();
  const paths = Object.keys(document_.paths).map((path) => path.replace("/api/v1", ""));
  return { version: document_.info.version, offers: new Set(paths) };
}

/** The session that the browser's cookie stands for, or null. */
export async function resume(gateway) {
  if (!gateway.offers.has("/session")) return null;
  try {
    return begin(await api.get("/session"));
  } catch (error) {
    if (error.status === 401) return null;
    throw error;
  }
}

/** Log in with a token; throws ApiError. */
export async function logIn(gateway, token) {
  if (gateway.offers.has("/session")) return begin(await api.post("/session", { token }));
  setCredentials(token, null);
  try {
    await api.get("/products", { limit: 1 });
  } catch (error) {
    setCredentials(null, null);
    throw error;
  }
  return { name: null, role: "admin", cookie: false };
}

/** End the session, here and at the gateway. */
export async function logOut(session) {
  try {
    if (session.cookie) await api.delete("/session");
  } catch (error) {
    if (!(error instanceof ApiError)) throw error; // Whatever the gateway says: here it has ended.
  }
  setCredentials(null, null);
}

function begin(view) {
  setCredentials(null, view.csrf);
  return { ...view, cookie: true };
}
