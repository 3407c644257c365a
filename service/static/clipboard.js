/** Copying a text. */

import { make } from "./panel.js";

/** Whether the text is in the clipboard now. */
export async function copy(text) {
  // Browsers keep the clipboard from pages that came over plain HTTP from another machine.
  if (!navigator.clipboard) return copySelected(text);
  return navigator.clipboard.writeText(text).then(() => true, () => copySelected(text));
}

function copySelected(text) {
  const before = document.activeElement;
  const field = make("textarea", { value: text, readOnly: true, className: "visually-hidden" });
  document.body.append(field);
  field.select();
  const copied = document.execCommand("copy");
  field.remove();
  before?.focus();
  return copied;
}
