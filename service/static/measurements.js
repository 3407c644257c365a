/** What fewer patches cost and save for one photo: how alike the vector stays, and how long the model takes. */

import { cosine } from "./vectors.js";

export class Measurements {
  #vectors = new Map(); // keep -> vector
  #times = new Map(); // keep -> milliseconds in the model, one per call that was timed

  /** A vector of the photo, embedded with `keep`. */
  learn(keep, vector) {
    this.#vectors.set(keep, vector);
  }

  time(keep, ms) {
    this.#times.set(keep, [...(this.#times.get(keep) || []), ms]);
  }

  forgetTimes() {
    this.#times.clear();
  }

  /** The values of `keep` of which a vector is known, ascending. */
  known() {
    return ascending(this.#vectors.keys());
  }

  knows(keep) {
    return this.#vectors.has(keep);
  }

  /** How alike the vector is to that of all patches; undefined while one of them is not known. */
  alike(keep) {
    return this.knows(keep) && this.knows(1) ? cosine(this.#vectors.get(keep), this.#vectors.get(1)) : undefined;
  }

  /** The median of the times in the model, in milliseconds; undefined while none was taken. */
  ms(keep) {
    const sorted = ascending(this.#times.get(keep) || []);
    if (!sorted.length) return undefined;
    return (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
  }

  /** How many times as fast as with all patches; undefined while it is not known. */
  speed(keep) {
    return this.ms(keep) === undefined || this.ms(1) === undefined ? undefined : this.ms(1) / this.ms(keep);
  }

  /** How many times as long the longest call took as the shortest with the same patches: at worst, of all values. */
  spread() {
    return Math.max(1, ...[...this.#times.values()].map((times) => Math.max(...times) / Math.min(...times)));
  }

  /** The values of `keep` that were timed, ascending. */
  timed() {
    return ascending(this.#times.keys());
  }
}

function ascending(numbers) {
  return [...numbers].sort((a, b) => a - b);
}
