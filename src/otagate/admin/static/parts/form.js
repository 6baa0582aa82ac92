/* Forms: values, the rules they must keep, and errors at the field that they concern.

A field shows its broken rule once it was left or the form was sent, or while typing if the form is `eager`; what the
gateway refuses shows at the field that it names until that changes, anything else above the form's buttons. */

import { explain } from "../core/api.js";
import { t } from "../core/i18n.js";
import { Broken } from "../core/validation.js";
import { html, useId, useRef, useState } from "../core/view.js";

/** A form's state. `rules` are by field: (value, values) => the normalised value, or throws Broken. */
export function useForm(initial, rules = {}, { eager = false } = {}) {
  const [values, setValues] = useState(initial);
  const [touched, setTouched] = useState({});
  const [refused, setRefused] = useState({});
  const [failure, setFailure] = useState(null);
  const [busy, setBusy] = useState(false);
  const element = useRef(null);
  const normal = { ...values };
  const broken = {};
  for (const [name, rule] of Object.entries(rules)) {
    try {
      normal[name] = rule(values[name], values);
    } catch (error) {
      if (!(error instanceof Broken)) throw error;
      broken[name] = t(`rule.${error.rule}`);
    }
  }

  function set(name, value) {
    setValues((current) => ({ ...current, [name]: value }));
    setRefused((current) => ({ ...current, [name]: undefined }));
    setFailure(null);
    if (eager) touch(name);
  }

  const touch = (name) => setTouched((current) => ({ ...current, [name]: true }));

  function refuse(error) {
    const field = (error.field ?? "").replace(/\[.*/, "");
    if (field in values) {
      setRefused((current) => ({ ...current, [field]: explain(error) }));
      focusOn(field);
    } else setFailure(explain(error));
  }

  function focusOn(field) {
    requestAnimationFrame(() => element.current?.querySelector(`[name="${field}"]`)?.focus());
  }

  /** Call the action with the normalised values if no rule is broken; its ApiError is shown. */
  async function submit(event, action) {
    event?.preventDefault();
    if (busy) return;
    setTouched(Object.fromEntries(Object.keys(values).map((name) => [name, true])));
    const [first] = Object.keys(broken);
    if (first !== undefined) {
      focusOn(first);
      return;
    }
    setBusy(true);
    setFailure(null);
    try {
      await action(normal);
    } catch (error) {
      if (error.name !== "AbortError") refuse(error);
    } finally {
      setBusy(false);
    }
  }

  const error = (name) => refused[name] ?? (touched[name] ? broken[name] : undefined);
  return { values, normal, broken, busy, failure, element, set, touch, submit, error };
}

/** Label, control, hint and error of one field; `control` gets what ties them together. */
export function Field({ form, name, label, hint, fine, control, class: className = "" }) {
  const id = useId();
  const error = form?.error(name);
  const described = [hint && `${id}-hint`, error && `${id}-error`].filter(Boolean).join(" ");
  const bound = { id, name, "aria-invalid": error ? "true" : undefined, "aria-describedby": described || undefined };
  return html`<div class="field ${className}">
    <label for=${id}>${label}</label>
    ${control(bound)}
    ${hint && html`<span class="hint" id="${id}-hint">${hint}</span>`}
    ${error && html`<span class="error" id="${id}-error" role="alert">${error}</span>`}
    ${!error && fine && html`<span class="fine">${fine}</span>`}
  </div>`;
}

/** A line of text, or several with `lines`. */
export function TextField({ form, name, label, hint, fine, lines, type = "text", mono, placeholder, autofocus, ...rest }) {
  const control = (bound) => {
    const shared = {
      ...bound, ...rest, placeholder, autofocus, value: form.values[name], class: mono ? "mono" : undefined, spellcheck: false,
      onInput: (event) => form.set(name, event.currentTarget.value), onBlur: () => form.values[name] && form.touch(name),
    };
    return lines ? html`<textarea rows=${lines} ...${shared} />` : html`<input type=${type} autocomplete="off" ...${shared} />`;
  };
  return html`<${Field} ...${{ form, name, label, hint, fine, control }} />`;
}

/** A whole number with its unit. */
export function NumberField({ form, name, label, hint, unit, least, most }) {
  const control = (bound) => html`<span class="unit">
    <input type="number" inputmode="numeric" step="1" min=${least} max=${most} ...${bound} value=${form.values[name]}
      onInput=${(event) => { form.set(name, event.currentTarget.value); form.touch(name); }} />
    ${unit && html`<span class="quiet">${unit}</span>`}
  </span>`;
  return html`<${Field} ...${{ form, name, label, hint, control }} />`;
}

/** One of some: `options` are [value, text] pairs. */
export function SelectField({ form, name, label, hint, options }) {
  const control = (bound) => html`<select ...${bound} value=${form.values[name]}
    onChange=${(event) => form.set(name, event.currentTarget.value)}>
    ${options.map(([value, text]) => html`<option value=${value} selected=${value === form.values[name]}>${text}</option>`)}
  </select>`;
  return html`<${Field} ...${{ form, name, label, hint, control }} />`;
}

/** One of a few that need a sentence each: `options` are [value, text, explanation]. */
export function Choices({ form, name, label, options }) {
  const id = useId();
  const error = form.error(name);
  return html`<fieldset class="field">
    <legend class="label">${label}</legend>
    <div class="choices">
      ${options.map(([value, text, explanation]) => html`<label class="choice">
        <input type="radio" name=${name} value=${value} checked=${form.values[name] === value}
          aria-describedby="${id}-${value}" onChange=${() => form.set(name, value)} />
        <span>${text}<br /><span class="hint" id="${id}-${value}">${explanation}</span></span>
      </label>`)}
    </div>
    ${error && html`<span class="error" role="alert">${error}</span>`}
  </fieldset>`;
}

/** What the gateway refused without naming a field. */
export const Failure = ({ text }) => text && html`<p class="notice bad" role="alert">${text}</p>`;
