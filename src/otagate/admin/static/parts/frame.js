/* What the login page and the frame of all other pages share. */

import { language, LANGUAGES, t } from "../core/i18n.js";
import { setTheme, theme } from "../core/preferences.js";
import { html, useState } from "../core/view.js";

/** The mark, drawn in the page: an image file would be asked for on every page. */
export const Mark = () => html`<svg width="24" height="24" viewBox="0 0 32 32" aria-hidden="true" fill="none" stroke="#fff"
  stroke-width="3" stroke-linecap="round" stroke-linejoin="round"><rect width="32" height="32" rx="7" fill="#0f6d66" stroke="none" />
  <path d="M8 24V14a8 8 0 0 1 16 0v10" /><path d="M16 24v-9m-4 4 4-4 4 4" /></svg>`;

/** Language and theme. */
export function LookSwitches({ choose }) {
  const [, redraw] = useState(0);
  const paint = (event) => {
    setTheme(event.currentTarget.value);
    redraw((count) => count + 1);
  };
  return html`<div class="side-row">
    <select aria-label=${t("session.language")} onChange=${(event) => choose(event.currentTarget.value)}>
      ${Object.entries(LANGUAGES).map(([key, name]) => html`<option value=${key} lang=${key} selected=${key === language()}>${name}</option>`)}
    </select>
    <select aria-label=${t("session.theme")} onChange=${paint}>
      ${["auto", "light", "dark"].map((key) => html`<option value=${key} selected=${key === theme()}>${t(`theme.${key}`)}</option>`)}
    </select>
  </div>`;
}
