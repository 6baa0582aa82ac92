/* The console: who is logged in, the frame around every page, and which page is shown. Start reading here.

core/ is what pages stand on (API, routes, languages, rules), parts/ what they are made of, pages/ the pages. */

import { onUnauthorized } from "./core/api.js";
import { feedState, LIVE, watchFeed } from "./core/feed.js";
import { chooseLanguage, language, startLanguage, t } from "./core/i18n.js";
import { applyTheme } from "./core/preferences.js";
import { href, useRoute } from "./core/router.js";
import { discover, logOut, resume } from "./core/session.js";
import { html, render, useEffect, useErrorBoundary, useRef, useState } from "./core/view.js";
import { Overlays } from "./parts/dialog.js";
import { LookSwitches, Mark } from "./parts/frame.js";
import { Badge } from "./parts/states.js";
import { AuditPage } from "./pages/audit.js";
import { BatchPage } from "./pages/batch.js";
import { BatchNewPage } from "./pages/batch_new.js";
import { BatchesPage } from "./pages/batches.js";
import { DevicesPage } from "./pages/devices.js";
import { FirmwarePage } from "./pages/firmware.js";
import { FirmwareAddPage } from "./pages/firmware_add.js";
import { LoginPage } from "./pages/login.js";
import { OverviewPage } from "./pages/overview.js";
import { ProductsPage } from "./pages/products.js";
import { RegisterPage } from "./pages/register.js";
import { TokensPage } from "./pages/tokens.js";
import { WebhooksPage } from "./pages/webhooks.js";

// The path of each page (":" is a parameter), and the entry of the navigation that it belongs to.
const PAGES = [
  [["overview"], OverviewPage, "overview"],
  [["products"], ProductsPage, "products"],
  [["devices"], DevicesPage, "devices"],
  [["devices", "register"], RegisterPage, "devices"],
  [["firmware"], FirmwarePage, "firmware"],
  [["firmware", "add"], FirmwareAddPage, "firmware"],
  [["batches"], BatchesPage, "batches"],
  [["batches", "new"], BatchNewPage, "batches"],
  [["batches", ":id"], BatchPage, "batches"],
  [["tokens"], TokensPage, "tokens"],
  [["audit"], AuditPage, "audit"],
  [["webhooks"], WebhooksPage, "webhooks"],
];
const ADMINISTRATION = ["tokens", "audit", "webhooks"];

function find(path) {
  for (const [pattern, Page, entry] of PAGES) {
    const fits = pattern.length === path.length && pattern.every((part, at) => part === path[at] || part === ":id");
    if (fits) return { Page, entry, id: path[pattern.indexOf(":id")] };
  }
  return null;
}

function App() {
  const [gateway, setGateway] = useState(null);
  const [session, setSession] = useState(undefined);
  const [failed, setFailed] = useState(false);
  const [, redraw] = useState(0);

  async function start() {
    setFailed(false);
    try {
      const found = await discover();
      setGateway(found);
      setSession(await resume(found));
    } catch {
      setFailed(true);
    }
  }

  useEffect(() => {
    start();
    return onUnauthorized(() => setSession(null));
  }, []);

  const choose = (chosen) => {
    chooseLanguage(chosen);
    redraw((count) => count + 1);
  };
  const leave = async () => {
    await logOut(session);
    setSession(null);
  };
  if (failed) return html`<${Unreachable} onRetry=${start} />`;
  if (!gateway || session === undefined) return html`<p class="empty" role="status">${t("list.loading")}</p>`;
  if (!session) return html`<${LoginPage} ...${{ gateway, setSession, choose }} />`;
  return html`<${Shell} ...${{ gateway, session, choose, leave }} />`;
}

function Unreachable({ onRetry }) {
  return html`<div class="login"><div class="panel stack">
    <h1>${t("error.unreachable_title")}</h1><p>${t("error.unreachable")}</p>
    <div><button class="primary" onClick=${onRetry}>${t("action.retry")}</button></div>
  </div></div>`;
}

function Shell({ gateway, session, choose, leave }) {
  const route = useRoute();
  const [open, setOpen] = useState(false);
  const main = useRef(null);
  const path = route.path.length ? route.path : ["overview"];
  const found = find(path);
  const place = path.join("/");
  const administers = session.role === "admin";
  const entries = ["overview", "products", "devices", "firmware", "batches"];
  const more = administers ? ADMINISTRATION.filter((entry) => gateway.offers.has(`/${entry}`)) : [];

  useEffect(() => {
    setOpen(false);
    scrollTo(0, 0);
    document.title = `${found ? t(`nav.${found.entry}`) : t("error.no_page")} · otagate`;
  }, [place, language()]);

  const link = (entry) => html`<a href=${href(entry)} aria-current=${found?.entry === entry ? "page" : undefined}>${t(`nav.${entry}`)}</a>`;
  const skip = (event) => {
    event.preventDefault();
    main.current.focus();
  };
  return html`<div class="shell">
    <a class="skip" href="#main" onClick=${skip}>${t("nav.skip")}</a>
    <header class="side ${open ? "open" : ""}">
      <div class="side-head">
        <a class="brand" href=${href("overview")}><${Mark} />otagate</a>
        <button class="menu-button" aria-expanded=${open ? "true" : "false"} onClick=${() => setOpen(!open)}>${t("nav.menu")}</button>
      </div>
      <nav class="nav" aria-label=${t("nav.label")}>
        ${entries.map(link)}
        ${more.length > 0 && html`<p class="nav-group">${t("nav.administration")}</p>`}
        ${more.map(link)}
      </nav>
      <div class="side-foot">
        <${FeedBadge} />
        <${LookSwitches} choose=${choose} />
        <div class="side-row"><span>${session.name ?? t("session.token")}${session.role ? ` · ${t(`role.${session.role}`)}` : ""}</span>
          <button class="plain" onClick=${leave}>${t("session.log_out")}</button></div>
        <span>otagate ${gateway.version}</span>
      </div>
    </header>
    <main class="main" id="main" tabindex="-1" ref=${main}>
      <${Guarded} key=${place} page=${found?.Page ?? NoPage} ...${{ gateway, session, query: route.query, id: found?.id }} />
    </main>
    <${Overlays} />
  </div>`;
}

/** A page; a fault in it must not take the frame away. */
function Guarded({ page: Page, ...rest }) {
  const [error, reset] = useErrorBoundary((fault) => console.error(fault));
  if (!error) return html`<${Page} ...${rest} />`;
  return html`<div class="notice bad" role="alert">${t("error.page")} <code>${String(error.message ?? error)}</code>
    <span class="actions"><button onClick=${reset}>${t("action.retry")}</button></span></div>`;
}

function FeedBadge() {
  const [, redraw] = useState(0);
  useEffect(() => watchFeed(() => redraw((count) => count + 1)), []);
  const state = feedState();
  if (state === null) return null;
  return html`<span role="status"><${Badge} of=${state} text=${t(`feed.${state}`)} hollow=${state !== LIVE} /></span>`;
}

function NoPage() {
  return html`<div class="panel"><div class="empty"><strong>${t("error.no_page")}</strong>
    <a class="button" href=${href("overview")}>${t("nav.overview")}</a></div></div>`;
}

startLanguage();
applyTheme();
render(html`<${App} />`, document.getElementById("app"));
