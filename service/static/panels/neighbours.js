/** The rows of an index that are nearest to a photo: as pictures that can be seen larger, or where there are none as bars. */

import { make } from "../dom.js";
import { Thumbnails } from "../thumbnails.js";
import { angle } from "../vectors.js";
import { fixed, short } from "../words.js";
import { Larger, pictureOf } from "./larger.js";

const SIDE = 320; // of a picture in pixels, twice what a card gives it

export class Neighbours {
  /** `list`: to put them into. `dialog`: for the larger picture. `page`: what every card has before it. */
  constructor(list, dialog, { service, info }) {
    this.list = list;
    this.thumbnails = new Thumbnails(service);
    this.larger = new Larger(dialog, this.thumbnails, SIDE);
    this.asPictures = info.search.thumbnails;
    list.classList.add(this.asPictures ? "pictures" : "bars");
  }

  /** `rows`: of POST /search for one photo, the nearest first. */
  draw(rows) {
    this.thumbnails.drop();
    this.list.replaceChildren(...rows.map((row, i) => make("li", {}, ...(this.asPictures ? this.#picture(rows, i) : bar(row)))));
  }

  /** They belong to a photo that is not looked at any more. */
  end() {
    this.thumbnails.drop();
    this.larger.close();
  }

  #picture(rows, i) {
    const image = this.thumbnails.image(pictureOf(rows[i], SIDE), { alt: rows[i].path });
    const button = make("button", { type: "button", title: "See it larger" }, image);
    button.addEventListener("click", () => this.larger.open(rows, i));
    return [button, score(rows[i]), path(rows[i]), columns(rows[i])];
  }
}

/** A bar is as long as the angle between the vectors is far from a right one: cosines alone all lie close to 1. */
function bar(row) {
  const length = make("i");
  length.style.width = `${100 * Math.max(0, 1 - angle(row.score) / (Math.PI / 2))}%`;
  return [path(row), make("div", { className: "track" }, length), score(row), columns(row)];
}

function score({ score: value }) {
  return make("b", { textContent: fixed(value, 3) });
}

/** The file's name is what is read, so it has a line of its own. */
function path({ path: text }) {
  const end = text.lastIndexOf("/") + 1;
  const parts = [make("span", { className: "soft", textContent: text.slice(0, end) }), make("span", { textContent: text.slice(end) })];
  return make("span", { className: "path", title: text }, ...parts);
}

function columns({ columns: values }) {
  const known = Object.entries(values).filter(([, value]) => value !== null);
  return make("span", { className: "soft columns", textContent: known.map(([name, value]) => `${name} ${brief(value)}`).join(" · ") });
}

function brief(value) {
  return typeof value === "number" && !Number.isInteger(value) ? short(value) : value;
}
