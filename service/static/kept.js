/** Which patches the encoder sees of a photo that is embedded with `keep`: the same ids as bundle.masking.keep_ids. */

const GOLDEN = (Math.sqrt(5) - 1) / 2; // the step whose multiples modulo 1 cover [0, 1) most evenly

/** How many of the patches: round(numPatches * keep), at least 1. keep: above 0 and at most 1. */
export function numKept(numPatches, keep) {
  return Math.max(1, roundHalfEven(numPatches * keep));
}

/** Their ids, ascending, counted row by row: one of each of as many runs, at an offset that varies from run to run. */
export function keptIds(numPatches, keep) {
  const count = numKept(numPatches, keep);
  const bound = (run) => Math.floor((run * numPatches) / count);
  return Array.from({ length: count }, (_, run) => bound(run) + Math.floor(((run * GOLDEN) % 1) * (bound(run + 1) - bound(run))));
}

/** As Python rounds: halves go to the even neighbour. */
function roundHalfEven(value) {
  const floor = Math.floor(value);
  return value - floor === 0.5 ? floor + (floor % 2) : Math.round(value);
}
