/* Files that the browser saves. */

/** Save parts (texts or bytes) under a name. */
export function save(name, type, parts) {
  const url = URL.createObjectURL(new Blob(parts, { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/**
 * A line of CSV (RFC 4180), every cell as it is: what is saved here are secrets, and devices get them from the
 * file. An apostrophe before what a spreadsheet would take for a formula would make another secret of it.
 */
export function csvLine(cells) {
  const written = cells.map((cell) => {
    const text = String(cell ?? "");
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  });
  return `${written.join(",")}\r\n`;
}
