/** Embeddings from a part of the patches: which ones are seen, how alike the vector stays, and how much time it saves. */

import { blank } from "../canvas.js";
import { seen } from "../crop.js";
import { colour, make } from "../dom.js";
import { Grid } from "../grid.js";
import { keptIds, numKept } from "../kept.js";
import { Measurements } from "../measurements.js";
import { Panel } from "../panel.js";
import { fixed, percent } from "../words.js";
import { curve } from "./curve.js";

const MEASURED = [0.1, 0.25, 0.5, 0.75, 1];
const ROUNDS = 4; // the first is not counted: engines make ready for a number of patches at its first call
const FRACTIONS = { 0.25: "A quarter", 0.5: "Half", 0.75: "Three quarters", 1: "All" };
const STEADY = 2; // calls that differ by more than this are hardly a measurement
const UNTIMED = "The answers do not say how long the model took: something between the page and the service drops Server-Timing.";
const VEIL = 0.88; // how much of an unseen patch the card's colour covers

export class Keep extends Panel {
  #measurements = new WeakMap(); // photo -> Measurements
  #measuring = null; // AbortController
  #progress = "";
  #picture = null;

  constructor(section, page) {
    super(section, page);
    this.part("keep").addEventListener("input", () => { this.#showChosen(); this.refresh(); });
    this.part("measure").addEventListener("click", () => (this.#measuring ? this.#measuring.abort() : this.#measure()));
    const [height, width] = page.info.model.image_size;
    this.part("picture").style.aspectRatio = `${width} / ${height}`;
  }

  get keep() {
    return Number(this.part("keep").value) / 100;
  }

  get #known() {
    const [photo] = this.photos();
    if (!this.#measurements.has(photo)) this.#measurements.set(photo, new Measurements());
    return this.#measurements.get(photo);
  }

  forget() {
    this.#measuring?.abort();
    this.#picture = null;
    this.part("picture-text").textContent = "";
  }

  photosChanged() {
    super.photosChanged();
    if (!this.section.hidden) this.#showChosen();
  }

  async work(photos, signal) {
    const { keep } = this;
    const known = this.#known;
    const python = { method: "embed", args: [["keep", keep]] };
    const part = await this.ask("embed", { photos, params: { keep }, signal, python });
    known.learn(keep, part.body.embeddings[0]);
    if (!known.knows(1)) {
      const whole = await this.page.service.ask("embed", { photos, params: { keep: 1 }, signal });
      known.learn(1, whole.body.embeddings[0]);
    }
    const picture = this.#picture ?? (await seen(this.page, photos[0], signal));
    signal.throwIfAborted();
    this.#picture = picture;
    this.#showChosen();
  }

  redraw() {
    this.#drawPicture();
  }

  /** All that depends on the slider, as far as it is known. */
  #showChosen() {
    const { keep } = this;
    this.part("keep-text").textContent = percent(keep);
    this.#drawPicture();
    this.#showFigures();
  }

  /** Time a few values, in turns, so that a machine that gets busy meanwhile slows them all. */
  async #measure() {
    const photos = this.photos();
    const known = this.#known;
    const values = [...new Set([...MEASURED, this.keep])].sort((a, b) => a - b);
    const { signal } = (this.#measuring = new AbortController());
    known.forgetTimes();
    this.showError("");
    try {
      for (let call = 0; call < ROUNDS * values.length; call++) {
        this.#progress = `${call} of ${ROUNDS * values.length}`;
        this.#showFigures();
        const keep = values[call % values.length];
        const ms = await this.#timeOnce(photos, known, keep, signal);
        if (call >= values.length) known.time(keep, ms);
      }
    } catch (error) {
      if (error.name !== "AbortError") this.showError(error.message);
    }
    this.#measuring = null;
    this.#showFigures();
  }

  /** One call past the cache; returns the milliseconds in the model. */
  async #timeOnce(photos, known, keep, signal) {
    const headers = { "Cache-Control": "no-store" };
    const { body, timing } = await this.page.service.ask("embed", { photos, params: { keep }, headers, signal });
    if (!("infer" in timing)) throw new Error(UNTIMED);
    known.learn(keep, body.embeddings[0]);
    return timing.infer;
  }

  #showFigures() {
    if (this.section.hidden) return; // the photo went while its times were taken
    const { keep } = this;
    const known = this.#known;
    const timed = known.timed();
    this.part("said").textContent = this.#said(keep, known);
    const measure = timed.length ? "Measure again" : "Measure alikeness and time";
    this.part("measure").textContent = this.#measuring ? `Stop (${this.#progress})` : measure;
    this.part("charts").hidden = !timed.length;
    if (!timed.length) return;
    this.#drawCharts(keep, known, timed);
    const spread = known.spread();
    this.part("unsteady").hidden = spread <= STEADY;
    this.part("unsteady").textContent =
      `The machine is busy with other things: equal calls differed by a factor of ${fixed(spread, 1)}. Measure again when it is calm.`;
    this.part("rows").replaceChildren(...timed.map((each) => this.#row(each, known)));
  }

  #said(keep, known) {
    const { num_patches: all } = this.page.info.model;
    const alike = known.alike(keep);
    if (alike === undefined) return "";
    const patches = `${FRACTIONS[keep] || percent(keep)} of the patches (${numKept(all, keep)} of ${all})`;
    if (keep === 1) return `${patches}: the vector that all others are compared with.`;
    const speed = known.speed(keep);
    return `${patches}: ${fixed(alike, 3)} alike, ${speed === undefined ? "not timed yet" : inWords(speed)}.`;
  }

  #drawCharts(keep, known, timed) {
    const alike = known.known().map((each) => ({ keep: each, value: known.alike(each) }));
    const floor = Math.min(0.9, Math.floor(10 * Math.min(...alike.map(({ value }) => value))) / 10);
    curve(this.part("alike-chart"), {
      points: alike, range: [floor, 1], chosen: keep, words: (value) => fixed(value, 3),
      ticks: [floor, (1 + floor) / 2, 1].map((value) => [value, fixed(value, 2)]), title: "Cosine with the vector of all patches",
    });
    const times = timed.map((each) => ({ keep: each, value: 1 / known.speed(each) })).filter(({ value }) => value > 0);
    curve(this.part("time-chart"), {
      points: times, range: [0, Math.max(1, ...times.map(({ value }) => value))], chosen: keep, words: percent,
      ticks: [0, 0.5, 1].map((value) => [value, percent(value)]), title: "Time in the model against that of all patches",
    });
  }

  #row(keep, known) {
    const { num_patches: all } = this.page.info.model;
    const [alike, speed] = [known.alike(keep), known.speed(keep)];
    const shown = (value, digits, end = "") => (value === undefined ? "" : fixed(value, digits) + end);
    const cells = [numKept(all, keep), shown(alike, 3), shown(known.ms(keep), 2), shown(speed, 2, " ×")];
    const head = make("th", { scope: "row", textContent: percent(keep) });
    const row = make("tr", {}, head, ...cells.map((textContent) => make("td", { textContent })));
    row.classList.toggle("chosen", keep === this.keep);
    return row;
  }

  /** The photo, with a veil over what the network does not see. */
  #drawPicture() {
    const canvas = this.part("picture");
    if (!canvas.clientWidth) return;
    const grid = new Grid(this.page.info.model.grid);
    const { pen, width, height } = blank(canvas);
    pen.imageSmoothingQuality = "high";
    if (this.#picture) pen.drawImage(this.#picture, 0, 0, width, height);
    const kept = new Set(keptIds(grid.count, this.keep));
    pen.fillStyle = colour("--card");
    pen.globalAlpha = VEIL;
    for (let id = 0; id < grid.count; id++) {
      if (kept.has(id)) continue;
      const box = grid.box(id);
      const [left, top] = [Math.round(box.left * width), Math.round(box.top * height)]; // whole pixels, or seams would show
      const [right, bottom] = [Math.round((box.left + box.width) * width), Math.round((box.top + box.height) * height)];
      pen.fillRect(left, top, right - left, bottom - top);
    }
    const text = `Seen are ${kept.size} of ${grid.count} patches, spread evenly and the same for every photo`;
    canvas.setAttribute("aria-label", text);
    this.part("picture-text").textContent = `${text}.`;
  }
}

function inWords(speed) {
  if (speed < 1.05) return "and no faster here";
  return `${fixed(speed, 1)} times as fast here`;
}
