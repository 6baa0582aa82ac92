/* Logging in with a token. */

import { t } from "../core/i18n.js";
import { logIn } from "../core/session.js";
import { html } from "../core/view.js";
import { LookSwitches, Mark } from "../parts/frame.js";
import { Failure, TextField, useForm } from "../parts/form.js";

export function LoginPage({ gateway, setSession, choose }) {
  const form = useForm({ token: "" });
  const enter = async ({ token }) => {
    const session = await logIn(gateway, token.trim());
    setSession(session);
  };
  return html`<main class="login"><form class="panel stack" ref=${form.element} onSubmit=${(event) => form.submit(event, enter)}>
    <h1 class="brand"><${Mark} />otagate</h1>
    <p class="quiet">${t("login.lead")}</p>
    <${TextField} form=${form} name="token" type="password" label=${t("login.token")} hint=${t("login.hint")} autofocus required />
    <${Failure} text=${form.failure} />
    <button class="primary" type="submit" disabled=${form.busy || !form.values.token.trim()}>${t("login.enter")}</button>
    <div class="side-foot"><${LookSwitches} choose=${choose} /></div>
  </form></main>`;
}
