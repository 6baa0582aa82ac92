/* What this browser remembers between visits: the language and the theme, nothing else. */

const PREFIX = "otagate.";

/** The remembered value, or null; also where the browser permits no storage. */
export function remembered(name) {
  try {
    return localStorage.getItem(PREFIX + name);
  } catch {
    return null;
  }
}

/** Remember a value; null forgets it. */
export function remember(name, value) {
  try {
    if (value === null) localStorage.removeItem(PREFIX + name);
    else localStorage.setItem(PREFIX + name, value);
  } catch {
    // A browser that stores nothing still shows the console, as its defaults are.
  }
}

/** "light", "dark", or "auto" for the system's. */
export const theme = () => remembered("theme") ?? "auto";

/** Show a theme and remember it. */
export function setTheme(chosen) {
  remember("theme", chosen === "auto" ? null : chosen);
  applyTheme();
}

/** Make the page look as remembered. */
export function applyTheme() {
  const chosen = theme();
  if (chosen === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
  dispatchEvent(new Event("themechange"));
}
