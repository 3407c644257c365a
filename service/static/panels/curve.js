/** A small chart: a value over the part of the patches that is seen, point by point as they are measured. */

import { percent } from "../words.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [320, 170];
const FRAME = { left: 44, right: 12, top: 12, bottom: 34 };

/**
 * Draw into `svg`. `points`: [{ keep, value }], ascending. `range`: the values at the lower and the upper edge.
 * `ticks`: values with their words, as [[value, text]]. `chosen`: the keep that is marked. `title`: what the values are,
 * `words(value)`: one of them in words, for those who do not see the chart.
 */
export function curve(svg, { points, range: [low, high], ticks, chosen, title, words }) {
  const x = (keep) => FRAME.left + keep * (WIDTH - FRAME.left - FRAME.right);
  const y = (value) => HEIGHT - FRAME.bottom - ((value - low) / (high - low)) * (HEIGHT - FRAME.top - FRAME.bottom);
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  const said = points.map(({ keep, value }) => `${words(value)} at ${percent(keep)} seen`);
  svg.setAttribute("aria-label", `${title}: ${said.join(", ")}`);
  svg.replaceChildren(
    ...ticks.flatMap(([value, text]) => [
      shape("line", { class: "rule", x1: x(0), x2: x(1), y1: y(value), y2: y(value) }),
      word(text, { class: "end", x: x(0) - 6, y: y(value) + 4 }),
    ]),
    ...[0, 0.25, 0.5, 0.75, 1].map((keep) => word(`${100 * keep}`, { class: "middle", x: x(keep), y: HEIGHT - FRAME.bottom + 15 })),
    word("% of the patches seen", { class: "middle", x: x(0.5), y: HEIGHT - 4 }),
    shape("line", { class: "chosen", x1: x(chosen), x2: x(chosen), y1: FRAME.top, y2: HEIGHT - FRAME.bottom }),
    shape("polyline", { class: "curve", points: points.map(({ keep, value }) => `${x(keep)},${y(value)}`).join(" ") }),
    ...points.map(({ keep, value }) => dot(x(keep), y(value), keep === chosen)),
  );
}

function dot(cx, cy, chosen) {
  return shape("circle", chosen ? { class: "dot chosen", cx, cy, r: 6 } : { class: "dot", cx, cy, r: 3.5 });
}

function shape(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [attribute, value] of Object.entries(attributes)) element.setAttribute(attribute, value);
  return element;
}

function word(text, attributes) {
  const element = shape("text", attributes);
  element.textContent = text;
  return element;
}
