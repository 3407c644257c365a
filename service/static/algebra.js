/**
 * Linear algebra on vectors that lie one after the other in one array, as the service sends them.
 *
 * Letters: N vectors of D values in `values` [N * D]. What is computed is in float64, of one kind of array throughout, which
 * engines run several times faster than a mixture.
 */

const BLOCK = 4; // vectors that the Krylov basis grows by at a time
const MOST_ROUNDS = 24;
const TOLERANCE = 1e-4; // of the residual, relative to the largest variance

/** The dot product of D values of `a` from `at` on and of `b` from `from` on. */
export function dot(a, at, b, from, D) {
  // Four sums that do not wait for each other.
  let [s, t, u, v] = [0, 0, 0, 0];
  const whole = D - (D % 4);
  for (let d = 0; d < whole; d += 4) {
    s += a[at + d] * b[from + d];
    t += a[at + d + 1] * b[from + d + 1];
    u += a[at + d + 2] * b[from + d + 2];
    v += a[at + d + 3] * b[from + d + 3];
  }
  for (let d = whole; d < D; d++) s += a[at + d] * b[from + d];
  return s + t + u + v;
}

/** The length of a vector. */
export function norm(vector) {
  return Math.sqrt(product(vector, vector));
}

/** The mean of the vectors: Float64Array [D]. */
export function meanOf(values, D) {
  const sum = new Float64Array(D);
  for (let row = 0; row < values.length; row += D) for (let d = 0; d < D; d++) sum[d] += values[row + d];
  return sum.map((value) => (value * D) / values.length);
}

/** The vectors less one that is taken from all of them: Float64Array [N * D]. */
export function less(values, vector) {
  const D = vector.length;
  const result = new Float64Array(values.length);
  for (let row = 0; row < values.length; row += D) for (let d = 0; d < D; d++) result[row + d] = values[row + d] - vector[d];
  return result;
}

/** Each vector less that in the same place: Float32Array [N * D]. */
export function difference(values, others) {
  const result = new Float32Array(values.length);
  for (let i = 0; i < values.length; i++) result[i] = values[i] - others[i]; // several times faster than map()
  return result;
}

/** The vectors scaled to length 1; those that are all zeros stay so: Float64Array [N * D]. */
export function units(values, D) {
  const result = new Float64Array(values.length);
  for (let row = 0; row < values.length; row += D) {
    const scale = 1 / (Math.sqrt(dot(values, row, values, row, D)) || 1);
    for (let d = 0; d < D; d++) result[row + d] = values[row + d] * scale;
  }
  return result;
}

/** The cosine of vector `index` to each, itself included. `unit`: vectors of length 1. Float64Array [N]. */
export function cosinesTo(unit, D, index) {
  return Float64Array.from({ length: unit.length / D }, (_, other) => dot(unit, index * D, unit, other * D, D));
}

/**
 * Principal components: the directions in which the vectors differ most, largest variance first.
 *
 * Returns { mean [D], axes: up to `count` Float64Array [D] of length 1, scores: where the vectors lie along each, Float64Array
 * [N], variances, total }: the variance along each axis, and in all directions (of N, not of N - 1). There are fewer axes
 * where the vectors differ in fewer directions.
 *
 * Neither the D x D nor the N x N matrix is formed: with 1024 vectors of 1280 values that alone would take most of a second.
 * A block of vectors is multiplied by the data and back, and the best directions within all blocks so far are taken (block
 * Krylov iteration, Musco & Musco 2015, arXiv 1504.05477, algorithm 2), until they no longer turn. It starts from the same
 * numbers every time, and an axis points to where its largest entry is positive: the same vectors give the same axes.
 */
export function principal(values, D, count = 3) {
  const N = values.length / D;
  const mean = meanOf(values, D);
  const centred = less(values, mean);
  const total = dot(centred, 0, centred, 0, centred.length) / N;
  const found = total > 0 ? krylov(centred, D, count) : { axes: [], scores: [] };
  found.axes.forEach((axis, i) => pointUp(axis, found.scores[i]));
  return { mean, ...found, variances: found.scores.map((along) => product(along, along) / N), total };
}

/** Where other vectors lie along the axes of `principal`: Float64Array [N] for each axis. */
export function project(values, { mean, axes }) {
  const D = mean.length;
  const centred = less(values, mean);
  return axes.map((axis) => Float64Array.from({ length: values.length / D }, (_, row) => dot(centred, row * D, axis, 0, D)));
}

/** The leading right singular vectors of the data, and the data along them. */
function krylov(data, D, count) {
  const [basis, images, returns] = [[], [], []]; // q [D], data q [N], and dataᵀ data q [D]
  const gram = []; // images · images, which is symmetric
  let block = start(data, D);
  for (let round = 0; ; round++) {
    const fresh = orthonormalised(block, basis);
    const seen = times(data, fresh, D);
    block = back(data, seen, D);
    basis.push(...fresh);
    returns.push(...block);
    for (const image of seen) {
      images.push(image);
      gram.push(images.map((other) => product(other, image)));
      gram.forEach((row, i) => { row[gram.length - 1] = gram.at(-1)[i]; });
    }
    const { values, vectors } = symmetricEigen(gram);
    const weights = vectors.slice(0, count).filter((_, i) => values[i] > values[0] * 1e-12);
    const turns = weights.map((weight, i) => distance(combined(returns, weight), combined(basis, weight), values[i]));
    if (fresh.length < BLOCK || round === MOST_ROUNDS || Math.max(...turns) <= TOLERANCE * values[0])
      return { axes: weights.map((weight) => combined(basis, weight)), scores: weights.map((weight) => combined(images, weight)) };
  }
}

/** Random sums of the vectors, the same ones every time: BLOCK of them, [D]. */
function start(data, D) {
  let state = 1; // of Lehmer's generator: state * 48271 mod 2^31 - 1
  const next = () => (state = (state * 48271) % 2147483647) / 2147483647 - 0.5;
  return back(data, filled([], data.length / D).map((zeros) => zeros.map(next)), D);
}

/** What is new in the vectors against an orthonormal basis, itself orthonormal. */
function orthonormalised(vectors, basis) {
  const fresh = [];
  for (const each of vectors) {
    const vector = each.slice();
    const before = norm(vector);
    // Twice, since after the first time rounding has left a part of the basis.
    for (const q of [...basis, ...fresh, ...basis, ...fresh]) add(vector, -product(q, vector), q);
    const after = norm(vector);
    if (after > before * 1e-10) fresh.push(vector.map((value) => value / after));
  }
  return fresh;
}

/** data q, [N], for each of at most BLOCK vectors q: all of them in one pass, as memory is the slow part. */
function times(data, vectors, D) {
  const [p, q, r, s] = filled(vectors, D);
  const results = filled([], data.length / D);
  for (let row = 0, at = 0; at < data.length; row++, at += D) {
    let [a, b, c, e] = [0, 0, 0, 0];
    for (let d = 0; d < D; d++) {
      const value = data[at + d];
      a += value * p[d];
      b += value * q[d];
      c += value * r[d];
      e += value * s[d];
    }
    [results[0][row], results[1][row], results[2][row], results[3][row]] = [a, b, c, e];
  }
  return results.slice(0, vectors.length);
}

/** dataᵀ y, [D], for each of at most BLOCK vectors y. */
function back(data, vectors, D) {
  const results = filled([], D);
  const [p, q, r, s] = results;
  const [w, x, y, z] = filled(vectors, data.length / D);
  for (let row = 0, at = 0; at < data.length; row++, at += D) {
    const [a, b, c, e] = [w[row], x[row], y[row], z[row]];
    for (let d = 0; d < D; d++) {
      const value = data[at + d];
      p[d] += a * value;
      q[d] += b * value;
      r[d] += c * value;
      s[d] += e * value;
    }
  }
  return results.slice(0, vectors.length);
}

/** BLOCK vectors: these, then zeros. */
function filled(vectors, size) {
  return Array.from({ length: BLOCK }, (_, i) => vectors[i] ?? new Float64Array(size));
}

function product(a, b) {
  return dot(a, 0, b, 0, a.length);
}

/** sum += weight * vector */
function add(sum, weight, vector) {
  for (let d = 0; d < sum.length; d++) sum[d] += weight * vector[d];
}

function combined(vectors, weights) {
  const sum = new Float64Array(vectors[0].length);
  vectors.forEach((vector, i) => add(sum, weights[i], vector));
  return sum;
}

/** |a - scale * b| */
function distance(a, b, scale) {
  return norm(a.map((value, d) => value - scale * b[d]));
}

/** Turn an axis, and the scores along it, so that its largest entry is positive. */
function pointUp(axis, scores) {
  const most = axis.reduce((best, value) => (Math.abs(value) > Math.abs(best) ? value : best), 0);
  if (most < 0) for (const each of [axis, scores]) each.forEach((value, i) => { each[i] = -value; });
}

/**
 * Eigenvalues of a symmetric matrix, largest first, and their vectors, by Jacobi's rotations (Golub & Van Loan, Matrix
 * Computations, section 8.5). `matrix`: an array of rows.
 */
export function symmetricEigen(matrix) {
  const size = matrix.length;
  const a = matrix.map((row) => Float64Array.from(row));
  const vectors = matrix.map((_, i) => Float64Array.from(matrix, (_, j) => Number(i === j))); // a row for each
  const scale = Math.max(...a.map(norm));
  for (let sweep = 0, left = Infinity; sweep < 30 && left > 1e-15 * scale; sweep++) {
    left = 0;
    for (let p = 0; p < size; p++) {
      for (let q = p + 1; q < size; q++) {
        left = Math.max(left, Math.abs(a[p][q]));
        if (Math.abs(a[p][q]) > 1e-16 * scale) rotate(a, vectors, p, q);
      }
    }
  }
  const order = [...a.keys()].sort((i, j) => a[j][j] - a[i][i]);
  return { values: order.map((i) => a[i][i]), vectors: order.map((i) => vectors[i]) };
}

/** Make a[p][q] zero. */
function rotate(a, vectors, p, q) {
  const slope = (a[q][q] - a[p][p]) / (2 * a[p][q]);
  const tangent = (slope < 0 ? -1 : 1) / (Math.abs(slope) + Math.hypot(1, slope));
  const cosine = 1 / Math.hypot(1, tangent);
  const sine = tangent * cosine;
  const turn = (x, y, i, j) => {
    const [before, other] = [x[i], y[j]];
    x[i] = cosine * before - sine * other;
    y[j] = sine * before + cosine * other;
  };
  for (const row of a) turn(row, row, p, q);
  for (let k = 0; k < a.length; k++) turn(a[p], a[q], k, k);
  for (let k = 0; k < a.length; k++) turn(vectors[p], vectors[q], k, k);
}
