/** A square of cells, one for each two photos, coloured by their cosine: to be looked through by mouse, touch or keys. */

import { colour, make, whenLooksChange } from "../dom.js";
import { Shades } from "../shades.js";
import { fixed } from "../words.js";

const EDGE = -1; // the row and the column of the photos themselves
const SIZES = { most: 72, least: 16, leastOnPhone: 40, numbers: 38 }; // of a cell, in CSS pixels

/** Dispatches "pair" with { row, column } when a cell is pointed at or focused, and "choose" with { index } for a photo. */
export class Matrix extends EventTarget {
  #cells = new Map(); // "row,column" -> td, or the button of a photo at the edge
  #shaded = ""; // the colours at the scale's ends, as the cells have them

  /** `container`: to put the table into. `card`: whose width there is to use. */
  constructor(container, card) {
    super();
    Object.assign(this, { container, card });
    this.table = make("table");
    this.table.setAttribute("role", "grid");
    this.table.setAttribute("aria-label", "How alike each two photos are. Arrow keys move from cell to cell.");
    this.table.addEventListener("pointerover", (event) => this.#tell(event.target));
    this.table.addEventListener("focusin", (event) => this.#tell(event.target));
    this.table.addEventListener("click", (event) => this.#click(event.target));
    this.table.addEventListener("keydown", (event) => this.#key(event));
    container.append(this.table);
    whenLooksChange(this.card, () => { this.#fit(); this.#shade(); });
  }

  /** `values`: the photos' cosines as rows. `share(value)`: where it lies on the scale, 0 to 1. */
  draw(photos, values, share) {
    const focused = this.table.contains(document.activeElement) && this.#place(document.activeElement);
    Object.assign(this, { photos, values, share });
    this.#shaded = "";
    this.#cells.clear();
    const heads = photos.map((photo, column) => this.#head(photo, EDGE, column));
    const cells = (row) => photos.map((_, column) => this.#cell(row, column));
    const rows = photos.map((photo, row) => make("tr", {}, this.#head(photo, row, EDGE), ...cells(row)));
    this.table.replaceChildren(make("thead", {}, make("tr", {}, make("td"), ...heads)), make("tbody", {}, ...rows));
    this.#fit();
    this.#shade();
    const last = photos.length - 1;
    this.#stop(focused ? { row: Math.min(focused.row, last), column: Math.min(focused.column, last) } : { row: 0, column: 1 });
    if (focused) this.focus();
  }

  /** Mark the photo that is looked at; -1 if it is none of these. */
  mark(chosen) {
    for (const head of this.table.querySelectorAll("th button")) {
      const { row, column } = this.#place(head);
      head.setAttribute("aria-pressed", Math.max(row, column) === chosen);
    }
  }

  /** Point out a pair, as if it was pointed at. */
  point(row, column) {
    this.table.querySelector(".at")?.classList.remove("at");
    this.#at(row, column)?.classList.add("at");
  }

  focus() {
    this.#current.focus({ preventScroll: true });
  }

  get #current() {
    return this.table.querySelector('[tabindex="0"]');
  }

  #at(row, column) {
    return this.#cells.get(`${row},${column}`);
  }

  #add(element, row, column) {
    element.setAttribute("data-row", row);
    element.setAttribute("data-column", column);
    this.#cells.set(`${row},${column}`, element);
    return element;
  }

  #head(photo, row, column) {
    const button = this.#add(make("button", { type: "button", title: photo.name, tabIndex: -1 }, thumbnail(photo)), row, column);
    return make("th", { scope: row === EDGE ? "col" : "row" }, button);
  }

  #cell(row, column) {
    if (row !== column) return this.#add(make("td", { textContent: fixed(this.values[row][column], 3) }), row, column);
    const cell = this.#add(make("td", { className: "self" }), row, column);
    cell.setAttribute("aria-label", "the same photo");
    return cell;
  }

  #shade() {
    if (!this.photos) return;
    const ends = [colour("--least", this.container), colour("--most", this.container)];
    if (ends.join() === this.#shaded) return;
    this.#shaded = ends.join();
    const shades = new Shades(...ends);
    this.values.forEach((values, row) => values.forEach((value, column) => {
      if (row === column) return;
      const { background, text } = shades.at(this.share(value));
      const { style } = this.#at(row, column);
      style.backgroundColor = background;
      style.color = text;
    }));
  }

  /** Cells as large as there is room for: all of them in three fifths of a wide card, else as small as can be used. */
  #fit() {
    if (!this.photos) return;
    const width = this.card.clientWidth;
    const [room, least] = width < 640 ? [width, SIZES.leastOnPhone] : [0.6 * width, SIZES.least];
    const size = Math.max(least, Math.min(SIZES.most, Math.floor(room / (this.photos.length + 1)) - 2));
    this.table.style.setProperty("--cell", `${size}px`);
    this.table.classList.toggle("numbers", size >= SIZES.numbers);
  }

  /** The cell or button that an element lies in, as { row, column }; null outside of them. */
  #place(element) {
    const cell = element.closest("[data-row]");
    return cell && { row: Number(cell.dataset.row), column: Number(cell.dataset.column) };
  }

  /** The one cell that the Tab key stops at. */
  #stop(place) {
    if (this.#current) this.#current.tabIndex = -1;
    this.#at(place.row, place.column).tabIndex = 0;
  }

  #tell(element) {
    const place = this.#place(element);
    if (place && place.row !== EDGE && place.column !== EDGE) this.#dispatch("pair", place);
  }

  #click(element) {
    const place = this.#place(element);
    if (!place) return;
    this.#go(place.row, place.column);
    if (place.row === EDGE || place.column === EDGE) this.#dispatch("choose", { index: Math.max(place.row, place.column) });
  }

  #key(event) {
    const place = this.#place(event.target);
    const last = this.photos.length - 1;
    const { row, column } = place;
    const next = {
      ArrowUp: [row - 1, column], ArrowDown: [row + 1, column], ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1],
      Home: [event.ctrlKey ? 0 : row, 0], End: [event.ctrlKey ? last : row, last],
    }[event.key];
    if (!next) return;
    event.preventDefault();
    const clamp = (value) => Math.max(EDGE, Math.min(last, value));
    this.#go(clamp(next[0]), clamp(next[1]));
  }

  /** Focus a cell; there is none in the corner. */
  #go(row, column) {
    if (!this.#at(row, column)) return;
    this.#stop({ row, column });
    this.#current.focus();
  }

  #dispatch(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

/** A photo as a small picture; a grey field with its name where the browser cannot show it. */
export function thumbnail(photo) {
  const image = make("img", { alt: photo.name, className: "thumbnail" });
  photo.thumbnail().then((url) => { if (url) image.src = url; });
  return image;
}
