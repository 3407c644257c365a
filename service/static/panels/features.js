/** What the network takes for alike: the patches' vectors as colours over the photo, and how like each other they are. */

import { cosinesTo, difference, less, meanOf, units } from "../algebra.js";
import { blank } from "../canvas.js";
import { plainPhoto, seen } from "../crop.js";
import { make } from "../dom.js";
import { Grid } from "../grid.js";
import { drawScale, heatColour } from "../heat.js";
import { Panel } from "../panel.js";
import { coloursOf, fitColours, thinned } from "../patchcolours.js";
import { PatchPicker } from "../patchpicker.js";
import { fixed, percent } from "../words.js";

const NAMED = 3; // so many of the patches that are most alike are named
const KEPT = 256; // so many vectors of every other photo are kept to find common colours

export class Features extends Panel {
  #grid;
  #picker;
  #plain = null; // the vectors of a plain grey picture, once they are known
  #samples = new WeakMap(); // photo -> some of its vectors
  #seen = null; // what is shown: { photo, picture, vectors, fit, colours }

  constructor(section, page) {
    super(section, page);
    this.#grid = new Grid(page.info.model.grid);
    this.#picker = new PatchPicker(this.part("grid"), this.#grid, () => this.redraw());
    const [height, width] = page.info.preprocess.crop;
    this.part("grid").style.aspectRatio = `${width} / ${height}`;
    this.part("opacity").addEventListener("input", () => this.redraw());
    this.part("shared").addEventListener("change", () => {
      this.#picker.keep(null); // else the colours, which change now, would not be seen
      this.refresh();
    });
    this.part("place").addEventListener("change", () => {
      this.#samples = new WeakMap();
      this.refresh();
    });
    this.part("back").addEventListener("click", () => {
      this.#picker.keep(null);
      this.part("grid").focus();
    });
  }

  photosChanged() {
    this.part("shared-label").hidden = this.page.photos.all.length < 2;
    super.photosChanged();
  }

  /** The colours for all photos depend on which there are. */
  trayChanged() {
    if (this.part("shared").checked) this.refresh();
  }

  async work([photo], signal) {
    try {
      const seen = await this.#look(photo, signal);
      if (photo !== this.#seen?.photo) this.#picker.keep(null);
      this.#seen = seen;
    } catch (error) {
      if (error.name !== "AbortError" && photo !== this.#seen?.photo) this.#seen = null;
      throw error;
    } finally {
      this.redraw();
    }
  }

  redraw() {
    this.part("stage").hidden = !this.#seen;
    if (!this.#seen) return;
    const patch = this.#picker.chosen;
    const likeness = patch === null ? null : this.#likeness(patch);
    const scale = likeness && spread(likeness, patch);
    const colours = likeness ? Array.from(likeness, (value) => heatColour(scale.of(value))) : this.#seen.colours;
    this.#draw(colours, patch);
    this.part("back").hidden = !this.#picker.keeps;
    this.part("shares").hidden = patch !== null;
    this.part("heat").hidden = patch === null;
    if (patch === null) this.#tellColours();
    else this.#tellLikeness(patch, likeness, scale);
  }

  get #dim() {
    return this.page.info.model.dim;
  }

  async #look(photo, signal) {
    const python = { method: "embed", args: [["pooling", "patches"]] };
    const answer = await this.ask("embed", { ...vectorsCall(photo, signal), python });
    const vectors = await this.#placeless(new Float32Array(answer.body), signal);
    const fit = await this.#fit(photo, vectors, signal);
    const picture = photo === this.#seen?.photo ? this.#seen.picture : await seen(this.page, photo, signal);
    signal.throwIfAborted();
    return { photo, picture, vectors, fit, colours: coloursOf(vectors, fit) };
  }

  /** The vectors less those of a plain grey picture, if that is wanted: what is left tells what is seen, not where. */
  async #placeless(vectors, signal) {
    if (!this.part("place").checked) return vectors;
    this.#plain ??= await this.#vectorsOf(await plainPhoto(this.page.info), signal);
    return difference(vectors, this.#plain);
  }

  async #vectorsOf(photo, signal) {
    return new Float32Array((await this.page.service.ask("embed", vectorsCall(photo, signal))).body);
  }

  /** As fitColours, with the number of `photos` that it is about. */
  async #fit(chosen, vectors, signal) {
    const samples = [vectors];
    const others = this.part("shared").checked ? this.page.photos.all.filter((photo) => photo !== chosen) : [];
    for (const photo of others) {
      const sample = await this.#sample(photo, signal);
      if (sample) samples.push(sample);
    }
    return { photos: samples.length, ...fitColours(samples, this.#dim) };
  }

  /** Some vectors of another photo; null where the service cannot read it. */
  async #sample(photo, signal) {
    if (!this.#samples.has(photo)) {
      try {
        const vectors = await this.#placeless(await this.#vectorsOf(photo, signal), signal);
        this.#samples.set(photo, thinned(vectors, this.#dim, KEPT));
      } catch (error) {
        if (!error.aboutPhotos) throw error;
        this.#samples.set(photo, null);
      }
    }
    return this.#samples.get(photo);
  }

  /** The cosine of a patch's vector to each, less what all of them have in common, which would make all alike. */
  #likeness(patch) {
    const { vectors } = this.#seen;
    this.#seen.units ??= units(less(vectors, meanOf(vectors, this.#dim)), this.#dim);
    return cosinesTo(this.#seen.units, this.#dim, patch);
  }

  #draw(colours, patch) {
    const { picture } = this.#seen;
    const { pen, width, height } = blank(this.part("map"));
    if (picture) pen.drawImage(picture, 0, 0, width, height);
    pen.globalAlpha = picture ? Number(this.part("opacity").value) / 100 : 1;
    pen.imageSmoothingEnabled = false;
    pen.drawImage(mosaic(colours, this.#grid), 0, 0, width, height);
    pen.globalAlpha = 1;
    if (patch !== null) outline(pen, this.#grid.box(patch), width, height);
  }

  #tellColours() {
    const { shares, photos } = this.#seen.fit;
    const rest = 1 - shares.reduce((sum, share) => sum + share, 0);
    const parts = ["Red", "Green", "Blue"].slice(0, shares.length).map((name, i) => [name, shares[i]]);
    const items = shares.length ? [...parts, ["Not shown", rest]] : [];
    this.part("shares-list").replaceChildren(...items.map(([name, share]) => shareItem(name, share)));
    this.part("shares-text").textContent = !shares.length
      ? "The patches do not differ, so they all have one colour."
      : `Of the differences between ${photos === 1 ? "this photo’s patches" : `the patches of ${photos} photos`}, the colours show:`;
    const { rows, columns } = this.#grid;
    this.part("map").setAttribute("aria-label", `The photo in ${rows} rows and ${columns} columns of patches; alike patches have alike ` +
      `colours. ${items.map(([name, share]) => `${name} ${percent(share)}`).join(", ")}`);
    this.part("readout").textContent = "Point at or tap a patch to see which others it is like.";
  }

  #tellLikeness(patch, likeness, { least, most }) {
    const others = [...likeness.keys()].filter((other) => other !== patch).sort((a, b) => likeness[b] - likeness[a]);
    const named = (other) => `${this.#grid.name(other)} (${fixed(likeness[other], 2)})`;
    const best = others.slice(0, NAMED).map(named);
    const here = `Patch in ${this.#grid.name(patch)}.`;
    const said = others.length ? `${here} Most alike: ${best.join("; ")}. Least alike: ${named(others.at(-1))}.` : here;
    this.part("readout").textContent = said;
    this.part("map").setAttribute("aria-label", `How like it the other patches are. ${said}`);
    drawScale(this.part("scale"));
    this.part("least").textContent = `${fixed(least, 2)} least alike`;
    this.part("most").textContent = `most alike ${fixed(most, 2)}`;
  }
}

function vectorsCall(photo, signal) {
  return { photos: [photo], params: { pooling: "patches" }, accept: "application/octet-stream", signal };
}

/** The range of a patch's likeness to the others, which the colours spread over; the patch itself, at 1, is off the scale. */
function spread(likeness, patch) {
  const others = likeness.filter((_, other) => other !== patch);
  const [least, most] = others.length ? [Math.min(...others), Math.max(...others)] : [0, 1];
  return { least, most, of: (value) => (value - least) / (most - least || 1) };
}

/** A canvas with a pixel for each patch. */
function mosaic(colours, { columns, rows }) {
  const canvas = make("canvas", { width: columns, height: rows });
  const pixels = new ImageData(columns, rows);
  colours.forEach((colour, i) => pixels.data.set([...colour, 255], 4 * i));
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

/** A frame that shows on every colour. */
function outline(pen, box, width, height) {
  for (const [colour, line] of [["black", 4], ["white", 2]]) {
    pen.strokeStyle = colour;
    pen.lineWidth = line;
    pen.strokeRect(box.left * width + 1, box.top * height + 1, box.width * width - 2, box.height * height - 2);
  }
}

function shareItem(name, share) {
  const bar = make("i");
  bar.style.width = `${100 * share}%`;
  return make("li", {}, make("span", { textContent: name }), bar, make("b", { textContent: percent(share) }));
}
