/** Which photos are alike: the cosine of every two of them, the nearest pairs, and the nearest to the one looked at. */

import { make } from "../dom.js";
import { Embeddings } from "../embeddings.js";
import { Panel } from "../panel.js";
import { SAMPLES, sampleUrl } from "../samples.js";
import { angle, cosineMatrix, neighbours, pairs } from "../vectors.js";
import { fixed } from "../words.js";
import { Matrix, thumbnail } from "./matrix.js";

const PAIRS_SHOWN = 5;
const SAME = 0.9995; // reads 1.000

export class Alike extends Panel {
  #drawn = { photos: [], pooling: "", matrix: [], pairs: [] };

  constructor(section, page) {
    super(section, page);
    const ask = (photos, pooling, signal) => this.ask("embed", this.#call(photos, pooling, signal));
    this.embeddings = new Embeddings(ask, page.info.limits);
    this.embeddings.onFault = (photo, fault) => page.photos.blame(photo, fault);
    this.matrix = new Matrix(this.part("matrix"), this.part("full"));
    this.matrix.addEventListener("pair", ({ detail }) => this.#showPair(detail));
    this.matrix.addEventListener("choose", ({ detail }) => this.page.photos.choose(this.#drawn.photos[detail.index]));
    this.part("pooling").value = page.info.pooling;
    this.part("pooling").addEventListener("change", () => this.refresh());
    this.samples = new Map(SAMPLES.map(([name, title]) => [name, this.#sample(name, title)]));
    this.part("samples").append(...this.samples.values());
  }

  photos() {
    return [...this.page.photos.all];
  }

  trayChanged() {
    this.#showChosen();
  }

  async work(photos, signal) {
    const pooling = this.part("pooling").value;
    try {
      if (photos.length > 1) await this.embeddings.gather(photos, pooling, signal);
    } finally {
      if (!signal.aborted) this.#show(photos, pooling); // what is known, whatever else went wrong
    }
  }

  #call(photos, pooling, signal) {
    return { photos, params: { pooling }, signal, python: { method: "embed", args: [["pooling", pooling]] } };
  }

  #show(photos, pooling) {
    const known = photos.filter((photo) => this.embeddings.vector(photo, pooling));
    this.#showLeftOut(photos);
    const invited = this.part("invitation").contains(document.activeElement);
    this.part("full").hidden = known.length < 2;
    this.part("invitation").hidden = known.length > 1;
    for (const [name, button] of this.samples) button.hidden = photos.some((photo) => photo.name === name);
    if (known.length < 2) return;
    if (!this.#isDrawn(known, pooling)) this.#draw(known, pooling);
    this.#showChosen();
    if (invited) this.matrix.focus();
    // More than one request takes: the first of them
    this.showCalls({ route: "embed", ...this.#call(this.embeddings.batches(known)[0], pooling) });
  }

  #showLeftOut(photos) {
    const fault = (photo) => this.embeddings.fault(photo);
    const items = photos.filter(fault).map((photo) => make("li", { textContent: `${photo.name} is left out. ${fault(photo)}` }));
    this.part("left-out").replaceChildren(...items);
  }

  #isDrawn(photos, pooling) {
    const drawn = this.#drawn;
    const same = photos.length === drawn.photos.length && photos.every((photo, i) => photo === drawn.photos[i]);
    return same && pooling === drawn.pooling;
  }

  #draw(photos, pooling) {
    const matrix = cosineMatrix(photos.map((photo) => this.embeddings.vector(photo, pooling)));
    const ranked = pairs(matrix);
    this.#drawn = { photos, pooling, matrix, pairs: ranked };
    this.matrix.draw(photos, matrix, (value) => this.#share(value));
    this.#showRange(ranked.at(-1).value, ranked[0].value);
    this.#showPair(ranked[0]);
    this.part("pairs").replaceChildren(...ranked.slice(0, PAIRS_SHOWN).map((pair) => this.#pairRow(pair)));
    this.part("pairs-head").hidden = this.part("pairs").hidden = ranked.length === 1;
  }

  /** Where a cosine lies between the least and the most of these photos, 0 to 1, by its angle. */
  #share(value) {
    const { pairs: ranked } = this.#drawn;
    const [narrow, wide] = [angle(ranked[0].value), angle(ranked.at(-1).value)];
    return wide > narrow ? (wide - angle(value)) / (wide - narrow) : 1;
  }

  #showRange(least, most) {
    this.part("least").textContent = `${fixed(least, 3)} least alike`;
    this.part("middle").textContent = fixed(Math.cos((angle(least) + angle(most)) / 2), 3);
    this.part("most").textContent = `most alike ${fixed(most, 3)}`;
    const alone = this.#drawn.pairs.length === 1;
    this.part("legend").hidden = alone;
    this.part("range").textContent = alone
      ? "One cosine alone says little, since all photos have something in common for a network. Add a third photo: which pair has " +
        "the higher cosine is what counts."
      : `Here the cosines lie between ${fixed(least, 3)} and ${fixed(most, 3)}. All photos have something in common for a network, so ` +
        "judge a cosine by the others: the colours run from the least to the most alike pair here, in even steps of the angle between the vectors.";
  }

  /** Both photos of a cell, their cosine, and its place among all pairs. */
  #showPair({ row, column }) {
    const { photos, matrix, pairs: ranked } = this.#drawn;
    const value = matrix[row][column];
    this.matrix.point(row, column);
    this.part("pair-pictures").replaceChildren(thumbnail(photos[row]), thumbnail(photos[column]));
    this.part("pair-value").textContent = row === column ? "" : fixed(value, 3);
    this.part("pair-text").textContent = row === column
      ? `${photos[row].name} with itself: the cosine is 1.`
      : `${photos[row].name} and ${photos[column].name}${ranked.length > 1 ? `: ${this.#place(row, column)}` : ""}.`;
  }

  #place(row, column) {
    const { pairs: ranked } = this.#drawn;
    const [low, high] = row < column ? [row, column] : [column, row];
    const place = ranked.findIndex((pair) => pair.row === low && pair.column === high);
    if (place === ranked.length - 1) return `the least alike of ${ranked.length} pairs`;
    return `the ${place ? `${ordinal(place + 1)} most alike` : "most alike"} of ${ranked.length} pairs`;
  }

  #pairRow({ row, column, value }) {
    const { photos } = this.#drawn;
    return make("li", {}, thumbnail(photos[row]), thumbnail(photos[column]), ...this.#figures(value));
  }

  #figures(value) {
    const same = value >= SAME ? "the same to the network" : "";
    return [make("b", { textContent: fixed(value, 3) }), make("span", { className: "soft", textContent: same })];
  }

  /** The others in the order of their cosine with the photo that is looked at, unless that is left out. */
  #showChosen() {
    const { photos, matrix } = this.#drawn;
    const chosen = photos.indexOf(this.page.photos.chosen);
    this.matrix.mark(chosen);
    const list = this.part("neighbours");
    list.hidden = this.part("neighbours-head").hidden = chosen < 0 || photos.length < 3;
    if (list.hidden) return;
    const focused = list.contains(document.activeElement);
    this.part("neighbours-head").textContent = `Nearest to ${photos[chosen].name}`;
    list.replaceChildren(...neighbours(matrix[chosen], chosen).map(({ index, value }) => this.#neighbourRow(photos[index], value)));
    if (focused) list.querySelector("button").focus();
  }

  #neighbourRow(photo, value) {
    const button = make("button", { type: "button", title: "Look at this photo" }, thumbnail(photo), ...this.#figures(value));
    button.addEventListener("click", () => this.page.photos.choose(photo));
    return make("li", {}, button);
  }

  #sample(name, title) {
    const picture = make("img", { src: sampleUrl(name), alt: `Add: ${title}`, loading: "lazy", className: "thumbnail" });
    const button = make("button", { type: "button", title: `Add: ${title}` }, picture);
    button.addEventListener("click", () => this.page.intake.takeSample(name).catch((error) => this.showError(error.message)));
    return button;
  }
}

/** 2 -> "2nd". */
function ordinal(number) {
  const tens = number % 100;
  const ending = tens > 10 && tens < 14 ? "th" : ["th", "st", "nd", "rd"][number % 10] || "th";
  return `${number}${ending}`;
}
