/** A mask that is painted by hand over the patches of a picture. */

import { PatchGrid } from "./patches.js";

/** The mask was changed by hand; `index`: of the one patch that the keyboard changed, else null. */
export class PaintEvent extends Event {
  constructor(index = null) {
    super("paint");
    this.index = index;
  }
}

/**
 * Cells that can be hidden and shown: by a click, by a stroke of mouse, pen or finger, which paints what its first patch
 * became, and by the space bar. Dispatches a PaintEvent at every change by hand.
 */
export class Painting extends PatchGrid {
  #hidden;
  #stroke = null;

  constructor(element, grid, label) {
    super(element, grid, label);
    this.#hidden = new Array(grid.count).fill(false);
    for (const cell of this.cells) cell.ariaSelected = "false";
    this.table.ariaMultiSelectable = "true";
    const on = (type, listener) => this.table.addEventListener(type, listener);
    on("pointerdown", (event) => this.#begin(event));
    on("mousedown", (event) => event.preventDefault()); // it would take the focus from the cell again
    on("pointermove", (event) => this.#go(event));
    on("pointerup", () => { this.#stroke = null; });
    on("pointercancel", () => this.#takeBack());
  }

  /** [L], true = hidden. */
  get hidden() {
    return [...this.#hidden];
  }

  /** Shows another mask, which is not painting. */
  set hidden(hidden) {
    hidden.forEach((value, index) => this.#set(index, value));
  }

  isHidden(index) {
    return this.#hidden[index];
  }

  get numHidden() {
    return this.#hidden.filter(Boolean).length;
  }

  /** Another mask, by hand. */
  paint(hidden) {
    this.hidden = hidden;
    this.dispatchEvent(new PaintEvent());
  }

  key(event, index) {
    if (event.key !== " ") return super.key(event, index);
    event.preventDefault();
    this.#set(index, !this.#hidden[index]);
    this.dispatchEvent(new PaintEvent(index));
  }

  #begin(event) {
    if (event.button !== 0 || !event.isPrimary) return;
    const index = this.at(event);
    this.#stroke = { value: !this.#hidden[index], last: index, before: this.hidden };
    this.table.setPointerCapture(event.pointerId);
    this.cells[index].focus({ preventScroll: true });
    this.#paintOne(index, this.#stroke.value);
  }

  #go(event) {
    if (!this.#stroke || !event.isPrimary) return;
    const index = this.at(event);
    for (const between of this.#line(this.#stroke.last, index)) this.#paintOne(between, this.#stroke.value);
    this.#stroke.last = index;
  }

  /** The browser took the finger for itself, for instance to enlarge the page with a second one. */
  #takeBack() {
    if (this.#stroke) this.paint(this.#stroke.before);
    this.#stroke = null;
  }

  /** The patches from one to the other: a fast stroke skips some. */
  #line(from, to) {
    const [[row, column], [lastRow, lastColumn]] = [from, to].map((index) => this.grid.position(index));
    const [down, right] = [lastRow - row, lastColumn - column];
    const steps = Math.max(Math.abs(down), Math.abs(right), 1);
    return Array.from({ length: steps }, (_, i) => {
      const part = (i + 1) / steps;
      return this.grid.index(Math.round(row + down * part), Math.round(column + right * part));
    });
  }

  #paintOne(index, value) {
    if (this.#hidden[index] === value) return;
    this.#set(index, value);
    this.dispatchEvent(new PaintEvent());
  }

  #set(index, value) {
    if (this.#hidden[index] === value) return;
    this.#hidden[index] = value;
    this.cells[index].ariaSelected = String(value);
  }
}

/** [L], true = hidden: the middle half of a grid's rows and columns, never all of it. */
export function middle({ rows, columns, count }) {
  const inside = (position, size) => {
    const half = Math.max(1, Math.round(size / 2));
    const first = Math.floor((size - half) / 2);
    return position >= first && position < first + half;
  };
  return Array.from({ length: count }, (_, i) => inside(Math.floor(i / columns), rows) && inside(i % columns, columns));
}
