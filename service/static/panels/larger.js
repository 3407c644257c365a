/** One neighbour of a photo in a dialog: its picture as large as the service gives it, and all that the index knows of it. */

import { make } from "../dom.js";
import { fixed } from "../words.js";

const SIDE = 512; // of the picture in pixels: the most that the service makes
const STEPS = { ArrowLeft: -1, ArrowRight: 1 };

/** The address of a row's picture that fits into a square of `side` pixels; null where there is none. */
export function pictureOf({ thumbnail }, side) {
  return thumbnail && `${thumbnail}?size=${side}`;
}

export class Larger {
  #rows = [];
  #at = 0;

  /** `small`: the side of the pictures that are there already. */
  constructor(dialog, thumbnails, small) {
    Object.assign(this, { dialog, thumbnails, small });
    const on = (name, listener) => this.#part(name).addEventListener("click", listener);
    on("previous", () => this.#go(this.#at - 1));
    on("next", () => this.#go(this.#at + 1));
    on("close", () => this.close());
    dialog.addEventListener("click", ({ target }) => { if (target === dialog) this.close(); }); // beside it
    dialog.addEventListener("keydown", (event) => this.#key(event));
  }

  /** See one of these rows; the others are next to it. */
  open(rows, at) {
    this.#rows = rows;
    this.#go(at);
    this.dialog.showModal();
  }

  close() {
    this.dialog.close();
  }

  #part(name) {
    return this.dialog.querySelector(`[data-part="${name}"]`);
  }

  #go(at) {
    this.#at = Math.max(0, Math.min(this.#rows.length - 1, at));
    const row = this.#rows[this.#at];
    this.#part("larger-path").textContent = row.path;
    this.#part("larger-place").textContent = `Score ${fixed(row.score, 3)}, ${this.#at + 1} of ${this.#rows.length}`;
    const known = [...Object.entries(row.columns), ["sha256", row.sha256]];
    const terms = known.flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: value ?? "none" })]);
    this.#part("larger-columns").replaceChildren(...terms);
    this.#part("previous").setAttribute("aria-disabled", this.#at === 0);
    this.#part("next").setAttribute("aria-disabled", this.#at === this.#rows.length - 1);
    this.#show(row);
  }

  /** The small picture at once, the large one when it is here: into an image of this row's own, which may be gone by then. */
  async #show(row) {
    const image = make("img", { alt: row.path });
    this.dialog.querySelector(".frame").replaceChildren(image);
    for (const side of [this.small, SIDE]) {
      const address = pictureOf(row, side);
      const url = address && await this.thumbnails.picture(address).catch(() => null);
      if (url) image.src = url;
    }
    image.classList.toggle("missing", !image.src);
  }

  #key(event) {
    const step = STEPS[event.key];
    if (step === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    this.#go(this.#at + step);
  }
}
