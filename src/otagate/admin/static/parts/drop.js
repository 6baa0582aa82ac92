/* Where a file is dropped, or chosen by click or keyboard. */

import { bytes } from "../core/format.js";
import { html, useId, useState } from "../core/view.js";

/** `file` is the one chosen, or null. */
export function Drop({ file, onFile, label, hint, accept, error }) {
  const id = useId();
  const [over, setOver] = useState(false);
  const hover = (value) => (event) => {
    event.preventDefault();
    setOver(value);
  };
  const drop = (event) => {
    event.preventDefault();
    setOver(false);
    if (event.dataTransfer.files.length > 0) onFile(event.dataTransfer.files[0]);
  };
  const pick = (event) => {
    if (event.currentTarget.files.length > 0) onFile(event.currentTarget.files[0]);
  };
  return html`<div class="drop ${over ? "over" : ""}" onDragOver=${hover(true)} onDragLeave=${hover(false)} onDrop=${drop}>
    <label for=${id}>${label}</label>
    <input id=${id} type="file" accept=${accept} onChange=${pick} aria-describedby="${id}-hint" aria-invalid=${error ? "true" : undefined} />
    ${file && html`<span><b>${file.name}</b> <span class="quiet">${bytes(file.size)}</span></span>`}
    <span class="hint" id="${id}-hint">${hint}</span>
    ${error && html`<span class="error" role="alert">${error}</span>`}
  </div>`;
}
