/* What lies over a page: dialogs, confirmations, and short messages that go by themselves. */

import { explain } from "../core/api.js";
import { t } from "../core/i18n.js";
import { html, useEffect, useLayoutEffect, useId, useRef, useState } from "../core/view.js";

const MESSAGE_MS = 6000;

/** A modal dialog; the browser keeps the focus inside and closes it on Escape. */
export function Dialog({ title, onClose, large, children }) {
  const element = useRef(null);
  const id = useId();
  useLayoutEffect(() => {
    const dialog = element.current;
    dialog.showModal();
    return () => dialog.close();
  }, []);
  const cancel = (event) => {
    event.preventDefault();
    onClose();
  };
  return html`<dialog ref=${element} class=${large ? "large" : ""} aria-labelledby=${id} onCancel=${cancel}>
    <div class="stack"><h2 id=${id}>${title}</h2>${children}</div>
  </dialog>`;
}

let messages = [];
let question = null;
const watchers = new Set();
const changed = () => watchers.forEach((watcher) => watcher());

/** Say that something was done. */
export function say(text) {
  const message = { text };
  messages = [...messages.slice(-2), message];
  changed();
  setTimeout(() => {
    messages = messages.filter((other) => other !== message);
    changed();
  }, MESSAGE_MS);
}

/** Ask before `run`, an async function, is called; its failure is shown in the dialog, which then stays. */
export function ask({ title, body, action, dangerous, run }) {
  question = { title, body, action, dangerous, run };
  changed();
}

/** Where messages and questions show; once, beside the page. */
export function Overlays() {
  const [, draw] = useState(0);
  useEffect(() => {
    const watcher = () => draw((count) => count + 1);
    watchers.add(watcher);
    return () => watchers.delete(watcher);
  }, []);
  const close = () => {
    question = null;
    changed();
  };
  return html`
    ${question && html`<${Question} key=${question.title} ...${question} onClose=${close} />`}
    <div class="toasts" role="status" aria-live="polite">
      ${messages.map((message) => html`<p class="notice">${message.text}</p>`)}
    </div>`;
}

function Question({ title, body, action, dangerous, run, onClose }) {
  const [busy, setBusy] = useState(false);
  const [failure, setFailure] = useState(null);
  const confirm = async (event) => {
    event.preventDefault();
    setBusy(true);
    setFailure(null);
    try {
      await run();
      onClose();
    } catch (error) {
      setFailure(explain(error));
      setBusy(false);
    }
  };
  return html`<${Dialog} title=${title} onClose=${onClose}>
    <form class="stack" onSubmit=${confirm}>
      <div class="stack">${body}</div>
      ${failure && html`<p class="notice bad" role="alert">${failure}</p>`}
      <div class="actions">
        <button type="button" onClick=${onClose}>${t("action.cancel")}</button>
        <button type="submit" class=${dangerous ? "danger" : "primary"} disabled=${busy}>${action}</button>
      </div>
    </form>
  <//>`;
}

/** A secret that is shown this once, with a button that copies it. */
export function Secret({ text }) {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    await navigator.clipboard?.writeText(text);
    setCopied(true);
  };
  return html`<div class="secret">
    <code>${text}</code>
    ${navigator.clipboard && html`<button type="button" onClick=${copy}>${copied ? t("action.copied") : t("action.copy")}</button>`}
  </div>`;
}
