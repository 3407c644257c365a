/** What the network makes of a photo of which it sees a part; the part is drawn at random, or painted by hand. */

import { PICTURES_OUTPUT } from "../calls.js";
import { make } from "../dom.js";
import { Grid } from "../grid.js";
import { drawHeat, drawLegend, roundTop, unit } from "../heat.js";
import { Painting, middle } from "../painting.js";
import { Panel } from "../panel.js";
import { Patches, swap, together } from "../patches.js";
import { percent, short } from "../words.js";

const NO_DECODER = "What is served here makes vectors of photos but cannot guess hidden patches: it comes without a decoder.";
const MOST_SEED = 999999;

export class Reconstruct extends Panel {
  #grid;
  #painting;
  #heat;
  #absence = null; // what says why there is no card
  #painted = false;
  #ratio = null; // where the slider stood before painting
  #answer = null;
  #worst = null; // the patch with the largest error
  #looked = null;

  constructor(section, page) {
    super(section, page);
    if (!this.offered) {
      this.#absence = make("p", { className: "soft", textContent: NO_DECODER });
      section.after(this.#absence);
      return;
    }
    const { image_size: [height, width], grid } = page.info.model;
    this.#grid = new Grid(grid);
    section.style.setProperty("--aspect", width / height);
    this.part("unit").textContent = unit(page.info.pixel_target);
    this.part("borrowed").hidden = page.info.pixel_target !== "normalized";
    this.#painting = new Painting(this.part("canvas"), this.#grid, "Patches of the photo, to hide and show");
    const [masked, reconstruction, heat] = ["masked", "reconstruction", "heat"].map((name) => new Patches(this.part(name).parentElement, this.#grid));
    this.#heat = heat;
    together([this.#painting, masked, reconstruction, heat], (index) => this.#look(index));
    this.#listen();
  }

  get offered() {
    return this.page.info.operations.reconstruct;
  }

  photosChanged() {
    super.photosChanged();
    if (this.#absence) this.#absence.hidden = this.photos().length === 0;
  }

  forget() {
    if (this.#impossible()) this.#unpaint();
  }

  async work(photos, signal) {
    const impossible = this.#impossible();
    this.#stage.classList.toggle("stale", Boolean(impossible));
    if (impossible) return;
    const { body } = await this.ask("reconstruct", { photos, signal, output: PICTURES_OUTPUT, ...this.#choice() });
    await swap(["original", "masked", "reconstruction"].map((name) => [this.part(name), body.images[name]]), signal);
    this.#show(body);
  }

  get #stage() {
    return this.section.querySelector(".stage");
  }

  #listen() {
    const on = (name, type, listener) => this.part(name).addEventListener(type, listener);
    on("ratio", "input", () => this.#draw());
    on("seed", "input", () => this.#draw());
    on("seed", "change", () => { this.part("seed").value = this.#seed; }); // what is used, whatever was typed
    on("shuffle", "click", () => {
      this.part("seed").value = (this.#seed + 1) % (MOST_SEED + 1);
      this.#draw();
    });
    on("clear", "click", () => this.#painting.paint(this.#painting.hidden.fill(false)));
    on("invert", "click", () => this.#painting.paint(this.#painting.hidden.map((hidden) => !hidden)));
    on("middle", "click", () => this.#painting.paint(middle(this.#grid)));
    on("random", "click", () => {
      this.#unpaint();
      this.refresh();
    });
    this.#painting.addEventListener("paint", ({ index }) => this.#paint(index));
  }

  get #seed() {
    return Math.min(MOST_SEED, Math.max(0, Math.trunc(Number(this.part("seed").value) || 0)));
  }

  /** The controls choose the patches. */
  #draw() {
    this.#sayRandom();
    this.refresh();
  }

  /** They do again, with the ratio from before the painting. */
  #unpaint() {
    if (this.#painted) this.part("ratio").value = this.#ratio;
    this.#sayRandom();
  }

  #sayRandom() {
    this.#painted = false;
    this.#sayRatio(Number(this.part("ratio").value) / 100);
    this.part("state").textContent = "Drawn at random.";
  }

  /** A hand chooses them; `index`: by which key was pressed, or null. */
  #paint(index) {
    if (!this.#painted) this.#ratio = this.part("ratio").value;
    this.#painted = true;
    const { numHidden } = this.#painting;
    const { count } = this.#grid;
    this.part("ratio").value = (100 * numHidden) / count;
    this.#sayRatio(numHidden / count);
    const state = this.#impossible() || `Painted by hand: ${numHidden} of ${count} patches hidden.`;
    this.part("state").textContent = state;
    this.part("said").textContent = index === null ? state : `${this.#words(index)}. ${state}`;
    this.#describe();
    this.refresh();
  }

  #sayRatio(ratio) {
    this.part("ratio-text").textContent = percent(ratio);
  }

  /** Why the service cannot be asked for this mask, or "". */
  #impossible() {
    if (!this.#painted) return "";
    const { numHidden } = this.#painting;
    if (numHidden === 0) return "Nothing is hidden: paint at least one patch to have it guessed.";
    if (numHidden === this.#grid.count) return "Everything is hidden: leave at least one patch to guess from.";
    return "";
  }

  /** The parameters, for the service and for its client in Python. */
  #choice() {
    if (this.#painted) {
      const mask = Array.from({ length: this.#grid.count }, (_, i) => i).filter((i) => this.#painting.isHidden(i));
      return { params: { mask: mask.join(",") }, python: { method: "reconstruct", args: [["mask", mask]] } };
    }
    const params = { mask_ratio: Number(this.part("ratio").value) / 100, seed: this.#seed };
    return { params, python: { method: "reconstruct", args: Object.entries(params) } };
  }

  #show(body) {
    this.#answer = body;
    const { mask, error, mean_error: mean } = body;
    // strokes that came after the question stay
    if (!this.#painted) this.#painting.hidden = mask.map(Boolean);
    const errors = error.map((value, i) => (mask[i] ? value : null));
    const hidden = errors.filter((value) => value !== null);
    const top = roundTop(errors);
    drawHeat(this.part("heat"), body.grid, errors, top);
    drawLegend(this.part("legend"), top);
    const worst = errors.indexOf(Math.max(...hidden));
    this.part("heat").ariaLabel = `The error of ${hidden.length} hidden patches: from ${short(Math.min(...hidden))} to ` +
      `${short(error[worst])}, ${short(mean)} on average; ${this.#grid.place(worst)} has the largest`;
    this.part("masked-text").textContent = `Masked: ${hidden.length} of ${mask.length} patches hidden`;
    this.part("reconstruction-text").textContent = `Reconstruction: error ${short(mean)}`;
    this.#worst = worst;
    this.#describe();
    this.#look(this.#looked);
  }

  #words(index) {
    return `${this.#grid.place(index)}, ${this.#painting.isHidden(index) ? "hidden" : "visible"}`;
  }

  /** Tell the cells what they are, and how well they were guessed where that is known. */
  #describe() {
    this.#painting.describe((i) => {
      const known = this.#painting.isHidden(i) && this.#answer?.mask[i];
      return known ? `${this.#words(i)}, error ${short(this.#answer.error[i])}` : this.#words(i);
    });
  }

  /** Enlarge a patch, the worst where none is looked at. */
  #look(looked) {
    this.#looked = looked;
    if (!this.#answer) return;
    const { mask, error } = this.#answer;
    const index = looked ?? this.#worst;
    const where = this.#grid.place(index);
    this.#heat.mark(index);
    this.part("loupe-title").textContent = looked === null ? "The largest error" : "This patch";
    this.part("loupe-text").textContent =
      `${where}: ${mask[index] ? `hidden, guessed with an error of ${short(error[index])}.` : "visible, nothing to guess."}`;
    this.#enlarge("before", "original", index, `${where} of the photo and its neighbours, enlarged`);
    this.#enlarge("after", "reconstruction", index, `${where} of the reconstruction and its neighbours, enlarged`);
  }

  /** Draw a patch of a picture with those around it. */
  #enlarge(name, picture, index, label) {
    const canvas = this.part(name);
    const size = this.page.info.model.patch_size;
    const [row, column] = this.#grid.position(index);
    canvas.width = canvas.height = 3 * size;
    canvas.getContext("2d").drawImage(this.part(picture), (1 - column) * size, (1 - row) * size);
    canvas.ariaLabel = label;
  }
}
