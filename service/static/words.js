/** How the page writes numbers: with the sign for minus, and no line break between a number and its unit. */

/** A part of a whole, 0 to 1: "75 %". */
export function percent(share, digits = 0) {
  return `${fixed(100 * share, digits)}\u00a0%`;
}

/** With so many decimal places: "−0.21". */
export function fixed(value, digits) {
  return minus(value.toFixed(digits));
}

/** Three figures, zeros at the end included, where numbers stand side by side: "−0.120". */
export function figure(value) {
  return minus(value.toPrecision(3));
}

/** At most three figures: "0.41", "12.5". */
export function short(value) {
  return minus(String(Number(value.toPrecision(3))));
}

function minus(text) {
  return text.replace("-", "−");
}
