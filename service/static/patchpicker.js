/** A picture made of patches, one of which can be chosen: by pointing, tapping, and with keys. */

const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

export class PatchPicker {
  #pointed = null;
  #kept = null;

  /** `element`: focusable, as large as the picture. `grid`: [rows, columns]. `onChange()`: another patch is chosen, or none. */
  constructor(element, grid, onChange) {
    this.element = element;
    [this.rows, this.columns] = grid;
    this.onChange = onChange;
    element.addEventListener("pointermove", (event) => {
      if (event.pointerType !== "touch") this.#point(this.#at(event)); // a finger that moves scrolls the page
    });
    element.addEventListener("pointerleave", () => this.#point(null));
    element.addEventListener("click", (event) => {
      const patch = this.#at(event);
      this.#pointed = null;
      this.keep(patch === this.#kept ? null : patch);
    });
    element.addEventListener("keydown", (event) => this.#press(event));
  }

  /** The patch that is pointed at, else the one that was clicked or moved to, else null. */
  get chosen() {
    return this.#pointed ?? this.#kept;
  }

  /** Whether a patch stays chosen when nothing points at it. */
  get keeps() {
    return this.#kept !== null;
  }

  keep(patch) {
    this.#kept = patch;
    this.onChange();
  }

  /** "row 3, column 5", counted from 1. */
  name(patch) {
    return `row ${Math.floor(patch / this.columns) + 1}, column ${(patch % this.columns) + 1}`;
  }

  /** Where a patch lies in a picture of this size: [left, top, width, height]. */
  box(patch, width, height) {
    const [wide, high] = [width / this.columns, height / this.rows];
    return [(patch % this.columns) * wide, Math.floor(patch / this.columns) * high, wide, high];
  }

  #point(patch) {
    if (patch === this.#pointed) return;
    this.#pointed = patch;
    this.onChange();
  }

  #at({ clientX, clientY }) {
    const { left, top, width, height } = this.element.getBoundingClientRect();
    const row = between(Math.floor(((clientY - top) / height) * this.rows), this.rows);
    return row * this.columns + between(Math.floor(((clientX - left) / width) * this.columns), this.columns);
  }

  #press(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const patch = this.#goal(event.key);
    if (patch === undefined) return;
    event.preventDefault();
    this.#pointed = null;
    this.keep(patch);
  }

  /** The patch that a key leads to; null for none, undefined where the key means nothing here. */
  #goal(key) {
    const last = this.columns - 1;
    const middle = Math.floor(this.rows / 2) * this.columns + Math.floor(this.columns / 2);
    if (key === "Escape") return this.#kept === null ? undefined : null;
    const from = this.chosen;
    if (key === "Enter" || key === " ") return from ?? middle;
    if (!(key in STEPS) && key !== "Home" && key !== "End") return undefined;
    if (from === null) return middle;
    const row = Math.floor(from / this.columns);
    if (key === "Home") return row * this.columns;
    if (key === "End") return row * this.columns + last;
    const [down, right] = STEPS[key];
    return between(row + down, this.rows) * this.columns + between((from % this.columns) + right, this.columns);
  }
}

function between(value, count) {
  return Math.min(Math.max(value, 0), count - 1);
}
