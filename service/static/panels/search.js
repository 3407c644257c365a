/** What an index of stored vectors holds nearest to the photo, among the rows that fit the filters. */

import { Filters } from "../filters.js";
import { Panel } from "../panel.js";
import { fixed } from "../words.js";
import { Neighbours } from "./neighbours.js";

const COUNT = 12; // fills whole rows of a grid, whether of two, three, four or six
const MOST = 100; // that the service gives

export class Search extends Panel {
  constructor(section, page) {
    super(section, page);
    if (!this.offered) return;
    const { num_rows: numRows, columns, thumbnails } = page.info.search;
    this.part("size").textContent = images(numRows);
    this.part("scale").hidden = thumbnails;
    this.filters = new Filters(this.part("filters"), this.part("add"), columns);
    this.filters.addEventListener("change", () => this.refresh());
    this.neighbours = new Neighbours(this.part("neighbours"), this.part("larger"), page);
    this.count = this.part("count");
    this.count.max = Math.min(MOST, Math.max(1, numRows));
    this.count.value = COUNT;
    this.count.addEventListener("input", () => {
      this.#sayCount();
      this.refresh();
    });
    this.#sayCount();
  }

  /** Whether the service was given an index. */
  get offered() {
    return Boolean(this.page.info.search);
  }

  forget() {
    this.neighbours?.end();
  }

  async work(photos, signal) {
    const [k, conditions] = [this.count.valueAsNumber, this.filters.conditions];
    try {
      const { body } = await this.ask("search", { photos, signal, ...call(k, conditions) });
      this.section.classList.remove("refused");
      this.#show(body, k, conditions);
    } catch (error) {
      this.section.classList.toggle("refused", error.status === 422);
      throw error;
    }
  }

  #sayCount() {
    this.part("count-text").textContent = this.count.value;
  }

  #show({ results: [rows], num_rows: numRows }, k, conditions) {
    this.part("size").textContent = images(numRows);
    this.part("said").textContent = verdict(rows, numRows, k, conditions.length > 0);
    this.neighbours.draw(rows);
  }
}

/** One search, as it is sent and as a program sends it. */
function call(k, conditions) {
  const filters = conditions.length ? [["filters", conditions]] : [];
  return {
    params: [["k", k], ...conditions.map((condition) => ["filter", condition])],
    python: { method: "search", args: [["k", k], ...filters] },
  };
}

function verdict(rows, numRows, k, filtered) {
  if (!numRows) return "The index holds no images yet.";
  if (!rows.length) return "No image fits the filters.";
  const scores = rows.length === 1 ? `with the score ${fixed(rows[0].score, 3)}` : `with scores from ${fixed(rows[0].score, 3)} down to ${fixed(rows.at(-1).score, 3)}`;
  if (filtered && rows.length < k) return `${rows.length === 1 ? "One image fits" : `${rows.length} images fit`} the filters, ${scores}.`;
  return `${rows.length === 1 ? "The nearest" : `The ${rows.length} nearest`}${filtered ? " of those that fit the filters" : ""}, ${scores}.`;
}

function images(count) {
  return count === 1 ? "one image" : `${count.toLocaleString("en")} images`;
}
