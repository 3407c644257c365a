/** The patches that a picture is cut into, numbered row by row from the top left: where they are, and what leads where. */

export class Grid {
  /** shape: [rows, columns]. */
  constructor(shape) {
    [this.rows, this.columns] = shape;
  }

  get count() {
    return this.rows * this.columns;
  }

  /** [row, column], counted from 0. */
  position(index) {
    return [Math.floor(index / this.columns), index % this.columns];
  }

  /** The patch in this row and column, or the nearest one where they are outside. */
  index(row, column) {
    return clamp(row, this.rows) * this.columns + clamp(column, this.columns);
  }

  /** "row 3, column 5", counted from 1. */
  name(index) {
    const [row, column] = this.position(index);
    return `row ${row + 1}, column ${column + 1}`;
  }

  /** "Row 3, column 5", for the beginning of a sentence. */
  place(index) {
    return this.name(index).replace("r", "R");
  }

  /** Where a patch lies, in parts of the picture: { left, top, width, height }. */
  box(index) {
    const [row, column] = this.position(index);
    return { left: column / this.columns, top: row / this.rows, width: 1 / this.columns, height: 1 / this.rows };
  }

  /** The patch below a pointer, the nearest one where it is outside. `element`: as large as the picture. */
  at({ clientX, clientY }, element) {
    const { left, top, width, height } = element.getBoundingClientRect();
    return this.index(Math.floor(((clientY - top) / height) * this.rows), Math.floor(((clientX - left) / width) * this.columns));
  }

  /** The patch that an arrow key, Home or End leads to from another; undefined where the key means nothing here. */
  next({ key, altKey, ctrlKey, metaKey }, from) {
    if (altKey || metaKey) return undefined; // the browser's own
    const [row, column] = this.position(from);
    switch (key) {
      case "ArrowUp": return this.index(row - 1, column);
      case "ArrowDown": return this.index(row + 1, column);
      case "ArrowLeft": return this.index(row, column - 1);
      case "ArrowRight": return this.index(row, column + 1);
      case "Home": return ctrlKey ? 0 : this.index(row, 0);
      case "End": return ctrlKey ? this.count - 1 : this.index(row, this.columns - 1);
    }
  }
}

function clamp(value, count) {
  return Math.min(count - 1, Math.max(0, value));
}
