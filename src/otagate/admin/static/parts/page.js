/* The head of a page: where it stands, its title, what can be done. */

import { explain } from "../core/api.js";
import { t } from "../core/i18n.js";
import { href } from "../core/router.js";
import { html } from "../core/view.js";
import { Empty } from "./table.js";

/** `crumbs` are [text, href] of what is above. */
export function Head({ title, crumbs = [], children }) {
  return html`<div class="page-head">
    <div class="page-title">
      ${crumbs.length > 0 && html`<span class="crumb">${crumbs.map(([text, link], at) => html`${at > 0 && " / "}<a href=${link}>${text}</a>`)}</span>`}
      <h1>${title}</h1>
    </div>
    ${children && html`<div class="actions">${children}</div>`}
  </div>`;
}

/** A failure to load, where the page would be. */
export const LoadFailure = ({ error }) => html`<p class="notice bad" role="alert">${explain(error)}</p>`;

/** What to do first, where a page needs a product and there is none. */
export const NoProduct = () => html`<div class="panel"><${Empty} title=${t("product.none")}><p>${t("product.none_hint")}</p>
  <a class="button primary" href=${href("products")}>${t("nav.products")}</a><//></div>`;

/** Name and value pairs; a third "wide" gives two columns. */
export const Facts = ({ items }) => html`<dl class="facts">
  ${items.filter(Boolean).map(([name, value, wide]) => html`<div class=${wide ?? ""}><dt>${name}</dt><dd>${value}</dd></div>`)}
</dl>`;
