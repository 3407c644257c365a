/** A number per patch as a colour: the scale, its legend and the drawing. The service's heat maps have the same colours. */

import { short } from "./words.js";

/** Red, green and blue, 0 to 255, at even steps from nothing to the most: SCALE in service/anomaly.py, which says why. */
export const SCALE = [
  [31, 21, 78], [72, 33, 100], [117, 45, 111], [161, 58, 110], [201, 76, 96], [228, 109, 80], [245, 147, 68],
  [253, 188, 76], [250, 231, 112],
];

const UNITS = {
  raw: "painting the average colour of the training photos everywhere",
  normalized: "painting the patch in its own average colour",
};

/** What an error means. target: what the network predicts, "raw" or "normalized". */
export function unit(target) {
  return `The error of a patch is the mean square of how far its values were guessed wrong: 0 is exact, and 1 is no better than ${UNITS[target]}.`;
}

/** The colour of a part of the most, 0 to 1: on a straight line between two of them, beyond them the last. */
export function heatColour(part) {
  const position = Math.min(1, Math.max(0, part)) * (SCALE.length - 1);
  const low = Math.min(SCALE.length - 2, Math.floor(position));
  return SCALE[low].map((value, i) => Math.round(value + (SCALE[low + 1][i] - value) * (position - low)));
}

/**
 * Draw [L] values, row by row, of which `top` and all above have the last colour; null stays clear.
 * A pixel of the canvas is a patch and the style sheet enlarges it, so that it is sharp at any size, density and theme.
 */
export function drawHeat(canvas, [rows, columns], values, top) {
  canvas.width = columns;
  canvas.height = rows;
  const pen = canvas.getContext("2d");
  const image = pen.createImageData(columns, rows);
  values.forEach((value, i) => value !== null && image.data.set([...heatColour(value / top), 255], 4 * i));
  pen.putImageData(image, 0, 0);
}

/** Draw the scale from left to right. */
export function drawScale(canvas) {
  const steps = 128;
  drawHeat(canvas, [1, steps], Array.from({ length: steps }, (_, i) => i / (steps - 1)), 1);
}

/** Draw the scale with its numbers into an element. `over`: whether values above `top` have its colour. */
export function drawLegend(element, top, over = false) {
  const bar = element.querySelector("canvas");
  drawScale(bar);
  const numbers = [0, top / 2, top].map(short);
  bar.ariaLabel = `The colours' scale: dark is ${numbers[0]}, bright is ${numbers[2]}${over ? " or more" : ""}`;
  element.querySelectorAll("span").forEach((span, i) => { span.textContent = over && i === 2 ? `${numbers[i]} or more` : numbers[i]; });
}

/** The next round number at or above the largest value, so that the scale does not change with every small change. */
export function roundTop(values) {
  const most = Math.max(...values.filter((value) => value !== null), 1e-6);
  const power = 10 ** Math.floor(Math.log10(most));
  return power * [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((step) => step * power >= most * (1 - 1e-9));
}
