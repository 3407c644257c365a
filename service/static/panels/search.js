/** What an index of stored vectors holds nearest to the photo, among the rows that fit the filters. */

import { Filters } from "../filters.js";
import { Panel } from "../panel.js";
import { fixed } from "../words.js";
import { Neighbours } from "./neighbours.js";

const COUNT = 12; // fills whole rows of a grid, whether of two, three, four or six
const MOST = 100; // that the service gives
const KEYS = ["path", "sha256"]; // columns that every index has

export class Search extends Panel {
  constructor(section, page) {
    super(section, page);
    if (!this.offered) return;
    const { num_rows: numRows, columns, thumbnails } = page.info.search;
    this.part("scale").hidden = thumbnails;
    this.filters = new Filters(this.part("filters"), this.part("add"), sorted(columns));
    this.filters.addEventListener("change", () => this.refresh());
    this.neighbours = new Neighbours(this.part("neighbours"), this.part("larger"), page);
    this.count = this.part("count");
    this.#saySize(numRows);
    this.count.value = COUNT;
    this.#sayCount();
    this.count.addEventListener("input", () => {
      this.#sayCount();
      this.refresh();
    });
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

  /** How many rows there are, of which more than that cannot be asked for. */
  #saySize(numRows) {
    this.part("size").textContent = images(numRows);
    this.count.max = Math.min(MOST, Math.max(1, numRows));
    this.#sayCount();
  }

  #show({ results: [rows], num_rows: numRows }, k, conditions) {
    this.#saySize(numRows);
    this.part("said").textContent = verdict(rows, numRows, k, conditions.length > 0);
    this.neighbours.draw(rows);
  }
}

/** Those first that not every index has: they are what one filters by. */
function sorted(columns) {
  return [...columns].sort((a, b) => KEYS.includes(a.name) - KEYS.includes(b.name));
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
  return `${found(rows.length, k, filtered)}, with ${scores(rows)}.`;
}

function found(count, k, filtered) {
  if (filtered && count < k) return count === 1 ? "One image fits the filters" : `${count} images fit the filters`;
  return (count === 1 ? "The nearest" : `The ${count} nearest`) + (filtered ? " of those that fit the filters" : "");
}

function scores(rows) {
  const [best, least] = [rows[0], rows.at(-1)].map(({ score }) => fixed(score, 3));
  return rows.length === 1 ? `the score ${best}` : `scores from ${best} down to ${least}`;
}

function images(count) {
  return count === 1 ? "one image" : `${count.toLocaleString("en")} images`;
}
