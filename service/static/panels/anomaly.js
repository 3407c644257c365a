/** Which patches of a photo the network guesses badly, whichever others it sees. */

import { PICTURES_OUTPUT } from "../calls.js";
import { Grid } from "../grid.js";
import { drawHeat, drawLegend, unit } from "../heat.js";
import { Panel } from "../panel.js";
import { PatchGrid, Patches, swap, together } from "../patches.js";
import { percent, short } from "../words.js";

const PASSES = 8;
const MOST_PASSES = 32; // more take long and tell little
const RATIO = 50; // finds defects better than 75, which is made for training: docs/anomaly.md
const LEAST_RATIO = 5;

export class Anomaly extends Panel {
  #grid;
  #plain;
  #map;
  #worst = null; // the patch with the largest error
  #answer = null;
  #looked = null;
  #passes = PASSES; // as wanted, which the ratio may not allow
  #kept = null; // the scale's end, where it does not follow the photo

  constructor(section, page) {
    super(section, page);
    if (!this.offered) return;
    const { image_size: [height, width], grid } = page.info.model;
    this.#grid = new Grid(grid);
    section.style.setProperty("--aspect", width / height);
    this.part("unit").textContent = unit(page.info.pixel_target);
    this.#map = new PatchGrid(this.part("map"), this.#grid, "Patches of the photo and how badly they were guessed");
    this.#plain = new Patches(this.part("plain"), this.#grid);
    together([this.#plain, this.#map], (index) => this.#look(index));
    this.#listen();
  }

  get offered() {
    return this.page.info.operations.reconstruct && leastRatio(this.page.info.model.num_patches, this.#mostPasses) !== undefined;
  }

  async work(photos, signal) {
    const params = { passes: Number(this.part("passes").value), mask_ratio: this.#ratio };
    if (this.#kept !== null) params.scale_max = this.#kept;
    const python = { method: "anomaly", args: Object.entries(params) };
    const { body } = await this.ask("reconstruct", { photos, params, signal, output: PICTURES_OUTPUT, python });
    await swap(["original", "grey"].map((name) => [this.part(name), body.images.original]), signal);
    this.#show(body);
  }

  #listen() {
    const on = (name, type, listener) => this.part(name).addEventListener(type, listener);
    on("passes", "input", () => {
      this.#passes = Number(this.part("passes").value);
      this.#change();
    });
    on("ratio", "input", () => this.#change());
    on("keep", "click", () => {
      this.#kept = this.#kept === null && this.#answer ? this.#answer.scale_max : null;
      this.part("keep").ariaPressed = String(this.#kept !== null);
      this.refresh();
    });
    this.part("ratio").min = leastRatio(this.page.info.model.num_patches, this.#mostPasses);
    this.part("ratio").value = RATIO;
    this.#fit();
  }

  get #ratio() {
    return Number(this.part("ratio").value) / 100;
  }

  get #mostPasses() {
    return Math.min(MOST_PASSES, this.page.info.limits.max_passes);
  }

  #change() {
    this.#fit();
    this.refresh();
  }

  /** Keep the passes between what hides every patch and what the service allows. */
  #fit() {
    const slider = this.part("passes");
    slider.min = leastPasses(this.page.info.model.num_patches, this.#ratio);
    slider.max = this.#mostPasses;
    slider.value = this.#passes;
    this.part("passes-text").textContent = slider.value;
    this.part("ratio-text").textContent = percent(this.#ratio);
  }

  #show(body) {
    this.#answer = body;
    const { error, passes, mean_error: mean, max_error: most, scale_max: top } = body;
    drawHeat(this.part("heat"), body.grid, error, top);
    drawLegend(this.part("legend"), top, most > top);
    this.#worst = error.indexOf(Math.max(...error));
    this.part("heat").ariaLabel = `The error of all ${error.length} patches over ${passes} passes: from ${short(Math.min(...error))} to ` +
      `${short(most)}, ${short(mean)} on average; ${this.#grid.place(this.#worst)} has the largest`;
    this.part("caption").textContent = `Error of every patch, ${short(mean)} on average`;
    this.#map.describe((i) => `${this.#grid.place(i)}, error ${short(error[i])}`);
    this.#look(this.#looked);
  }

  /** Tell of a patch, the worst where none is looked at. */
  #look(looked) {
    this.#looked = looked;
    if (!this.#answer) return;
    const { error, hidden, passes, mean_error: mean } = this.#answer;
    const index = looked ?? this.#worst;
    for (const picture of [this.#plain, this.#map]) picture.mark(index);
    this.part("look-title").textContent = looked === null ? "The largest error" : "This patch";
    this.part("look-text").textContent = `${this.#grid.place(index)}: error ${short(error[index])}, ${short(error[index] / mean)} times the ` +
      `average of the photo; hidden in ${hidden[index]} of ${passes} passes.`;
  }
}

/** How many passes it takes to hide each of so many patches once, as bundle/masking.py has it. ratio: hidden in one, in (0, 1). */
export function leastPasses(numPatches, ratio) {
  const numKept = Math.max(1, Math.min(numPatches - 1, Math.floor(numPatches * (1 - ratio))));
  return Math.ceil(numPatches / (numPatches - numKept));
}

/** The least percentage at which so many passes are enough, undefined where none is. */
function leastRatio(numPatches, passes) {
  for (let percent = LEAST_RATIO; percent <= 95; percent++) if (leastPasses(numPatches, percent / 100) <= passes) return percent;
}
