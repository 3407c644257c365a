/** Pictures cut into patches, row by row from the top left: pointing at one, marking it, and cells for the keyboard. */

import { make } from "./dom.js";

/** A patch is looked at; `index`: null where none is any more. */
export class LookEvent extends Event {
  constructor(index) {
    super("look");
    this.index = index;
  }
}

/** The patches of the picture that fills `element`. Dispatches a LookEvent where one is pointed at or tapped. `grid`: a Grid. */
export class Patches extends EventTarget {
  #marker = make("i", { className: "marker", hidden: true });

  constructor(element, grid) {
    super();
    this.element = element;
    this.grid = grid;
    element.append(this.#marker);
    for (const kind of ["pointermove", "pointerdown"]) element.addEventListener(kind, (event) => this.look(this.at(event)));
    // a finger that is lifted leaves too, but what it tapped stays looked at
    element.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && this.look(null));
  }

  /** The patch below a pointer. */
  at(event) {
    return this.grid.at(event, this.element);
  }

  look(index) {
    this.dispatchEvent(new LookEvent(index));
  }

  /** Draw a frame around a patch, or none for null. */
  mark(index) {
    this.#marker.hidden = index === null;
    if (index === null) return;
    for (const [side, part] of Object.entries(this.grid.box(index))) this.#marker.style[side] = `${100 * part}%`;
  }
}

/** Patches with a cell each, which one reaches by Tab, the arrow keys, Home and End. */
export class PatchGrid extends Patches {
  /** `label`: what the grid is, for those who do not see it. */
  constructor(element, grid, label) {
    super(element, grid);
    const { rows, columns, count } = grid;
    this.cells = Array.from({ length: count }, () => make("div", { role: "gridcell", tabIndex: -1 }));
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
    const next = this.grid.next(event, index);
    if (next === undefined) return;
    event.preventDefault();
    this.cells[next].focus();
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
