/** The photos that come with the page. */

export const SAMPLES = [
  ["cat.jpg", "A cat"],
  ["cat-closer.jpg", "The same cat, closer"],
  ["coffee.jpg", "A cup of coffee"],
  ["astronaut.jpg", "An astronaut"],
  ["rocket.jpg", "A rocket"],
  ["galaxies.jpg", "Galaxies"],
];

export function sampleUrl(name) {
  return `static/samples/${name}`;
}

/** A sample as the file that a visitor could have chosen. */
export async function sampleFile(name) {
  const blob = await (await fetch(sampleUrl(name))).blob();
  return new File([blob], name, { type: blob.type });
}
