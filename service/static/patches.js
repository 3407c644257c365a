/** Pictures cut into patches, row by row from the top left: pointing at one, marking it, and cells for the keyboard. */

import { make } from "./panel.js";

/** A patch is looked at; `index`: null where none is any more. */
export class LookEvent extends Event {
  constructor(index) {
    super("look");
    this.index = index;
  }
}

/** "Row 3, column 5", counted from 1. grid: [rows, columns]. */
export function place(index, [, columns]) {
  return `Row ${Math.floor(index / columns) + 1}, column ${(index % columns) + 1}`;
}

/**
 * The patches of the picture that fills `element`. Dispatches a LookEvent where one is pointed at or tapped.
 * grid: [rows, columns].
 */
export class Patches extends EventTarget {
  #marker = make("i", { className: "marker", hidden: true });

  constructor(element, grid) {
    super();
    this.element = element;
    this.grid = grid;
    element.append(this.#marker);
    element.addEventListener("pointermove", (event) => this.look(this.at(event)));
    element.addEventListener("pointerdown", (event) => this.look(this.at(event)));
    // a finger that is lifted leaves too, but what it tapped stays looked at
    element.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && this.look(null));
  }

  get count() {
    return this.grid[0] * this.grid[1];
  }

  /** The patch below a pointer, the nearest one where it is outside. */
  at({ clientX, clientY }) {
    const [rows, columns] = this.grid;
    const box = this.element.getBoundingClientRect();
    const row = Math.floor(((clientY - box.top) / box.height) * rows);
    const column = Math.floor(((clientX - box.left) / box.width) * columns);
    return clamp(row, rows) * columns + clamp(column, columns);
  }

  look(index) {
    this.dispatchEvent(new LookEvent(index));
  }

  /** Draw a frame around a patch, or none for null. */
  mark(index) {
    this.#marker.hidden = index === null;
    if (index === null) return;
    const [rows, columns] = this.grid;
    Object.assign(this.#marker.style, {
      top: percent(Math.floor(index / columns), rows), left: percent(index % columns, columns),
      height: percent(1, rows), width: percent(1, columns),
    });
  }
}

/** Patches with a cell each, which one reaches by Tab, the arrow keys, Home and End. */
export class PatchGrid extends Patches {
  /** `label`: what the grid is, for those who do not see it. */
  constructor(element, grid, label) {
    super(element, grid);
    const [rows, columns] = grid;
    this.cells = Array.from({ length: rows * columns }, () => make("div", { role: "gridcell", tabIndex: -1 }));
    this.cells[0].tabIndex = 0;
    const lines = Array.from({ length: rows }, (_, row) => make("div", { role: "row" }, ...this.cells.slice(row * columns, (row + 1) * columns)));
    this.table = make("div", { className: "cells", role: "grid", ariaLabel: label }, ...lines);
    this.table.style.setProperty("--columns", columns);
    element.append(this.table);
    this.table.addEventListener("focusin", (event) => this.#focused(this.cells.indexOf(event.target)));
    this.table.addEventListener("focusout", (event) => this.table.contains(event.relatedTarget) || this.look(null));
    this.table.addEventListener("keydown", (event) => this.key(event, this.cells.indexOf(event.target)));
  }

  /** Give every cell its words. */
  describe(words) {
    this.cells.forEach((cell, index) => { cell.ariaLabel = words(index); });
  }

  key(event, index) {
    const next = this.#next(event, index);
    if (next === undefined) return;
    event.preventDefault();
    this.cells[next].focus();
  }

  #next({ key, ctrlKey }, index) {
    const [rows, columns] = this.grid;
    const [row, column] = [Math.floor(index / columns), index % columns];
    const to = (r, c) => clamp(r, rows) * columns + clamp(c, columns);
    switch (key) {
      case "ArrowUp": return to(row - 1, column);
      case "ArrowDown": return to(row + 1, column);
      case "ArrowLeft": return to(row, column - 1);
      case "ArrowRight": return to(row, column + 1);
      case "Home": return ctrlKey ? 0 : to(row, 0);
      case "End": return ctrlKey ? this.count - 1 : to(row, columns - 1);
    }
  }

  /** One stop for Tab: the cell that was last in focus. */
  #focused(index) {
    for (const cell of this.table.querySelectorAll('[tabindex="0"]')) cell.tabIndex = -1;
    this.cells[index].tabIndex = 0;
    this.look(index);
  }
}

/** What one of these pictures looks at is marked in all of them, and told: onLook(index or null). */
export function together(pictures, onLook) {
  for (const picture of pictures) {
    picture.addEventListener("look", ({ index }) => {
      for (const each of pictures) each.mark(index);
      onLook(index);
    });
  }
}

/**
 * Put PNGs into <img> elements: [[image, base64], ...]. All at once, once the last can be drawn, so that nothing flickers.
 * Throws an AbortError, with nothing changed, where they are not wanted any more.
 */
export async function swap(pictures, signal) {
  const next = pictures.map(([image, png]) => Object.assign(image.cloneNode(), { src: `data:image/png;base64,${png}` }));
  await Promise.all(next.map((image) => image.decode()));
  signal.throwIfAborted();
  pictures.forEach(([image], i) => image.replaceWith(next[i]));
}

function clamp(value, count) {
  return Math.min(count - 1, Math.max(0, value));
}

function percent(part, whole) {
  return `${(100 * part) / whole}%`;
}
