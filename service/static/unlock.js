/** The form that asks for the service's API key, in the first of the cards that were refused for want of it. */

export class Unlock {
  #locked = new Set();
  #tried = false;

  /** `form`: with one password field. `unlocked(key)`: called with what was typed. */
  constructor(form, unlocked) {
    this.form = form;
    this.field = form.querySelector("input");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const key = this.field.value.trim();
      this.field.value = "";
      this.#tried = true;
      this.#locked.clear();
      form.hidden = true;
      unlocked(key);
    });
  }

  /** This card was refused. */
  open(panel) {
    this.#locked.add(panel);
    this.#place();
    if (this.#tried) this.field.focus(); // the key was wrong: the next one is typed at once
    this.#tried = false;
  }

  /** This card was answered. */
  close(panel) {
    if (this.#locked.delete(panel)) this.#place();
  }

  #place() {
    const [first] = [...this.#locked].sort((a, b) =>
      a.section.compareDocumentPosition(b.section) & Node.DOCUMENT_POSITION_FOLLOWING ? -1 : 1);
    const moves = first && this.form.previousElementSibling !== first.error;
    if (moves && !this.form.contains(document.activeElement)) first.error.after(this.form); // else what is typed would lose its focus
    this.form.hidden = !first;
  }
}
