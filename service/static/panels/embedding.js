/** The photo as a vector: its values as bars, its figures, and ways to take it along. */

import { norm } from "../algebra.js";
import { blank } from "../canvas.js";
import { copy } from "../clipboard.js";
import { colour, make } from "../dom.js";
import { Panel } from "../panel.js";
import { figure } from "../words.js";

const LEAST_BAR = 3; // CSS pixels, its gap included: where they would be narrower they go on in another row
const ROW = 112; // CSS pixels, as is the gap between rows
const GAP = 12;
const LEAP = 10; // values that Page Up and Page Down go
const STEPS = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -LEAP, PageUp: LEAP, Home: -Infinity, End: Infinity };
const POOLINGS = {
  mean: "the mean of the patches’ vectors, in which every part of the photo counts",
  cls: "the class token, a vector beside those of the patches which gathers what the whole photo is about",
};

export class Embedding extends Panel {
  #vector = null;
  #asked = null; // how to ask for what is shown: { photos, params }
  #at = null; // the value that is read out

  constructor(section, page) {
    super(section, page);
    this.#choose(page.info.pooling);
    for (const pooling of Object.keys(POOLINGS)) {
      this.part(pooling).addEventListener("click", () => {
        this.#choose(pooling);
        this.refresh();
      });
    }
    this.part("normalize").addEventListener("change", () => this.refresh());
    this.part("copy").addEventListener("click", () => this.#copy());
    this.part("save").addEventListener("click", () => this.#save());
    const strip = this.part("strip");
    for (const kind of ["pointermove", "pointerdown"]) strip.addEventListener(kind, (event) => this.#point(event));
    strip.addEventListener("keydown", (event) => this.#press(event));
  }

  async work(photos, signal) {
    const params = { pooling: this.pooling };
    if (!this.part("normalize").checked) params.normalize = false;
    this.part("said").textContent = "";
    try {
      const { body } = await this.ask("embed", { photos, params, signal, python: { method: "embed", args: Object.entries(params) } });
      [this.#vector] = body.embeddings;
      this.#asked = { photos, params };
    } catch (error) {
      if (error.name !== "AbortError" && photos[0] !== this.#asked?.photos[0]) this.#vector = null;
      throw error;
    } finally {
      this.redraw();
    }
  }

  #choose(pooling) {
    this.pooling = pooling;
    for (const each of Object.keys(POOLINGS)) this.part(each).setAttribute("aria-pressed", each === pooling);
  }

  redraw() {
    const shown = this.#vector !== null;
    this.part("stage").hidden = !shown;
    for (const button of ["copy", "save"]) this.part(button).disabled = !shown;
    if (!shown) return;
    this.#draw();
    this.#tell();
    this.#read();
  }

  /** How the bars lie: { rows, columns } of them. */
  #layout() {
    const rows = Math.ceil((this.#vector.length * LEAST_BAR) / Math.max(this.part("frame").clientWidth, 1));
    return { rows, columns: Math.ceil(this.#vector.length / rows) };
  }

  #draw() {
    const { rows, columns } = this.#layout();
    const canvas = this.part("bars");
    canvas.style.height = `${rows * (ROW + GAP) - GAP}px`;
    const { pen, width } = blank(canvas);
    const [plus, minus, line] = ["--plus", "--minus", "--line"].map((name) => colour(name));
    const step = width / columns;
    const [least, most] = [Math.min(...this.#vector, 0), Math.max(...this.#vector, 0)];
    const tall = ROW / (most - least || 1); // pixels for 1
    this.#vector.forEach((value, i) => {
      const [left, top] = [(i % columns) * step, Math.floor(i / columns) * (ROW + GAP)];
      const zero = top + most * tall;
      pen.fillStyle = line;
      if (i === this.#at) pen.fillRect(left, top, step, ROW);
      pen.fillRect(left, zero - 0.5, step, 1);
      pen.fillStyle = value < 0 ? minus : plus;
      pen.fillRect(left, zero - Math.max(value, 0) * tall, step - Math.min(1, step / 4), Math.abs(value) * tall);
    });
  }

  #tell() {
    const { pooling } = this.#asked.params;
    const figures = `${this.#vector.length} values from ${figure(Math.min(...this.#vector))} to ${figure(Math.max(...this.#vector))}, ` +
      `length ${figure(norm(this.#vector))}`;
    this.part("text").textContent = `${figures}: ${POOLINGS[pooling]}.`;
    this.part("bars").setAttribute("aria-label", `The vector as bars: ${figures}`);
  }

  /** Read out the value that is pointed at. */
  #read() {
    const at = Math.min(this.#at ?? 0, this.#vector.length - 1);
    const said = `Value ${at + 1} of ${this.#vector.length}: ${figure(this.#vector[at])}`;
    this.part("value").textContent = this.#at === null ? "Point at or tap a bar, or go along them with the arrow keys, to read its value." : said;
    const strip = this.part("strip");
    strip.setAttribute("aria-valuemax", this.#vector.length);
    strip.setAttribute("aria-valuenow", at + 1);
    strip.setAttribute("aria-valuetext", said);
  }

  #move(at) {
    this.#at = Math.min(Math.max(at, 0), this.#vector.length - 1);
    this.#draw();
    this.#read();
  }

  #point({ clientX, clientY }) {
    const { rows, columns } = this.#layout();
    const { left, top, width, height } = this.part("strip").getBoundingClientRect();
    const row = Math.min(Math.floor(((clientY - top) / height) * rows), rows - 1);
    const column = Math.min(Math.floor(((clientX - left) / width) * columns), columns - 1);
    this.#move(row * columns + column);
  }

  #press(event) {
    const step = STEPS[event.key];
    if (step === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    this.#move(this.#at === null && Math.abs(step) < Infinity ? 0 : (this.#at ?? 0) + step);
  }

  async #copy() {
    const copied = await copy(JSON.stringify(this.#vector));
    this.part("said").textContent = copied
      ? `Copied ${this.#vector.length} numbers as JSON.`
      : "This browser does not let pages copy. Save the .npy file, or use the curl line below.";
  }

  /** The service's own file, of exactly what is shown. */
  async #save() {
    const name = `${this.#asked.photos[0].name.replace(/\.[^.]*$/, "")}.npy`;
    try {
      const { body } = await this.page.service.ask("embed", { ...this.#asked, accept: "application/x-npy" });
      const url = URL.createObjectURL(new Blob([body], { type: "application/x-npy" }));
      make("a", { href: url, download: name }).click();
      URL.revokeObjectURL(url);
      this.part("said").textContent = `Saved ${name}, for numpy.load.`;
      this.showError("");
    } catch (error) {
      this.part("said").textContent = "";
      this.showError(error.message);
    }
  }
}
