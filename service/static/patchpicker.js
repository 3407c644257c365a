/** A picture made of patches, one of which can be chosen: by pointing, tapping, and with keys. */

export class PatchPicker {
  #pointed = null;
  #kept = null;

  /** `element`: focusable, as large as the picture. `grid`: a Grid. `onChange()`: another patch is chosen, or none. */
  constructor(element, grid, onChange) {
    this.grid = grid;
    this.onChange = onChange;
    element.addEventListener("pointermove", (event) => {
      if (event.pointerType !== "touch") this.#point(grid.at(event, element)); // a finger that moves scrolls the page
    });
    element.addEventListener("pointerleave", () => this.#point(null));
    element.addEventListener("click", (event) => {
      const patch = grid.at(event, element);
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

  #point(patch) {
    if (patch === this.#pointed) return;
    this.#pointed = patch;
    this.onChange();
  }

  #press(event) {
    const patch = this.#goal(event);
    if (patch === undefined) return;
    event.preventDefault();
    this.#pointed = null;
    this.keep(patch);
  }

  /** The patch that a key leads to, at first the one in the middle; null for none, undefined where the key means nothing here. */
  #goal(event) {
    const { rows, columns } = this.grid;
    const middle = this.grid.index(Math.floor(rows / 2), Math.floor(columns / 2));
    if (event.key === "Escape") return this.keeps ? null : undefined;
    if (event.key === "Enter" || event.key === " ") return this.chosen ?? middle;
    const next = this.grid.next(event, this.chosen ?? middle);
    return next !== undefined && this.chosen === null ? middle : next;
  }
}
