/** From the vectors of patches to colours: what is alike gets alike ones. A colour is [red, green, blue], 0 to 255. */

import { principal, project } from "./algebra.js";

const TAILS = 0.02; // of the patches at either end of an axis share its darkest and its brightest colour
const MOST_VECTORS = 4096; // that axes for several photos are found from
const MIDDLE = 128;

/** The axes that become red, green and blue, and their shares of all that differs; `samples`: an array of vectors per photo. */
export function fitColours(samples, D) {
  const each = Math.ceil(MOST_VECTORS / samples.length);
  const vectors = samples.length === 1 ? samples[0] : joined(samples.map((sample) => thinned(sample, D, each)));
  const { mean, axes, scores, variances, total } = principal(vectors, D);
  return { mean, axes, ranges: scores.map(range), shares: variances.map((variance) => variance / total) };
}

/** A colour for each vector. Where the vectors of the fit differ in fewer than three directions, a colour is left out. */
export function coloursOf(vectors, { mean, axes, ranges }) {
  const scores = project(vectors, { mean, axes });
  const shade = (axis, i) => {
    const [least, most] = ranges[axis];
    return most > least ? Math.round(255 * clamp((scores[axis][i] - least) / (most - least))) : MIDDLE;
  };
  const count = vectors.length / mean.length;
  return Array.from({ length: count }, (_, i) => [0, 1, 2].map((axis) => (axis < axes.length ? shade(axis, i) : MIDDLE)));
}

/** At most so many of the vectors, evenly spread. */
export function thinned(vectors, D, most) {
  const step = Math.ceil(vectors.length / D / most);
  if (step <= 1) return vectors;
  const rows = Math.ceil(vectors.length / D / step);
  const result = new Float32Array(rows * D);
  for (let i = 0; i < rows; i++) result.set(vectors.subarray(i * step * D, (i * step + 1) * D), i * D);
  return result;
}

function joined(parts) {
  const result = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    result.set(part, at);
    at += part.length;
  }
  return result;
}

/** Between which scores the colours spread: [least, most]. */
function range(scores) {
  const sorted = Float64Array.from(scores).sort();
  const at = (part) => sorted[Math.round(part * (sorted.length - 1))];
  return [at(TAILS), at(1 - TAILS)];
}

function clamp(value) {
  return Math.min(1, Math.max(0, value));
}
