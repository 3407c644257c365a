/** A scale between two colours, and the text colour that can be read on each of its shades. */

// Luminance at which black and white stand out equally (WCAG 2.1, contrast ratio): 21 : 1 in its geometric middle
const MIDDLE = Math.sqrt(1.05 * 0.05) - 0.05;

export class Shades {
  /** `low`, `high`: "rgb(36, 86, 199)", as `colour` of dom.js gives them. */
  constructor(low, high) {
    this.low = channels(low);
    this.high = channels(high);
  }

  /** `share`: 0, low, to 1, high. Mixed in sRGB, as linear-gradient mixes: a legend may be one. */
  at(share) {
    const mixed = this.low.map((value, i) => Math.round(value + share * (this.high[i] - value)));
    return { background: `rgb(${mixed.join(", ")})`, text: luminance(mixed) > MIDDLE ? "black" : "white" };
  }
}

function channels(colour) {
  return colour.match(/[\d.]+/g).slice(0, 3).map(Number);
}

/** Relative luminance of an sRGB colour (WCAG 2.1). */
function luminance(rgb) {
  const [red, green, blue] = rgb.map((value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}
