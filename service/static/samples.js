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

/** A sample as the file that a visitor could have chosen. Throws an Error in words. */
export async function sampleFile(name) {
  try {
    const answer = await fetch(sampleUrl(name));
    if (!answer.ok) throw new Error(answer.statusText);
    const blob = await answer.blob();
    return new File([blob], name, { type: blob.type });
  } catch (cause) {
    throw new Error("The sample cannot be fetched. Is the service still running?", { cause });
  }
}
