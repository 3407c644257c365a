/** Buttons that copy a text. */

import { announce, make } from "./dom.js";

const SAID_FOR_MS = 2000;

/** A button that copies what `text()` gives when it is pressed, and says so to eyes and ears. */
export function copyButton(what, text) {
  const button = make("button", { type: "button", className: "copy", textContent: "Copy" });
  button.setAttribute("aria-label", `Copy ${what}`);
  button.addEventListener("click", async () => {
    const copied = await copy(text());
    button.textContent = copied ? "Copied" : "Not copied";
    announce(copied ? `Copied ${what}` : "This browser does not let pages copy; select the text instead");
    setTimeout(() => { button.textContent = "Copy"; }, SAID_FOR_MS);
  });
  return button;
}

/** Whether the text is in the clipboard now. */
export async function copy(text) {
  // Browsers keep the clipboard from pages that came over plain HTTP from another machine
  if (!navigator.clipboard) return copySelected(text);
  return navigator.clipboard.writeText(text).then(() => true, () => copySelected(text));
}

function copySelected(text) {
  const before = document.activeElement;
  const field = make("textarea", { value: text, readOnly: true, className: "visually-hidden" });
  field.style.whiteSpace = "pre"; // else what is copied would lose its indentation
  document.body.append(field);
  field.select();
  const copied = document.execCommand("copy");
  field.remove();
  before?.focus();
  return copied;
}
