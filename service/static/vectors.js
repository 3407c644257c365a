/** How alike vectors are. A vector is an array of numbers, of which there is at least one. */

/** The cosine of the angle between two vectors of one length, -1 to 1; 0 where one of them is all zeros. */
export function cosine(a, b) {
  let product = 0;
  let squaresOfA = 0;
  let squaresOfB = 0;
  for (let i = 0; i < a.length; i++) {
    product += a[i] * b[i];
    squaresOfA += a[i] * a[i];
    squaresOfB += b[i] * b[i];
  }
  const lengths = Math.sqrt(squaresOfA * squaresOfB);
  return lengths ? product / lengths : 0;
}

/** The angle of a cosine, 0 to pi: it tells cosines near 1 apart. */
export function angle(cosine) {
  return Math.acos(Math.max(-1, Math.min(1, cosine)));
}

/** The cosine of every two of these vectors, as rows: symmetric, with 1 on the diagonal. */
export function cosineMatrix(vectors) {
  const rows = vectors.map(() => new Array(vectors.length).fill(1));
  for (let row = 0; row < vectors.length; row++)
    for (let column = 0; column < row; column++) rows[row][column] = rows[column][row] = cosine(vectors[row], vectors[column]);
  return rows;
}

/** Every pair of a matrix of cosines once, as { row, column, value } with row < column, the most alike first. */
export function pairs(matrix) {
  const found = matrix.flatMap((values, row) => values.slice(row + 1).map((value, i) => ({ row, column: row + 1 + i, value })));
  return found.sort((a, b) => b.value - a.value);
}

/** The others of a photo's row of cosines, as { index, value }, the most alike first. `self`: its own index. */
export function neighbours(row, self) {
  const others = row.map((value, index) => ({ index, value })).filter(({ index }) => index !== self);
  return others.sort((a, b) => b.value - a.value);
}
