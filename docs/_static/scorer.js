/** How the site's search ranks what it finds: Sphinx's scores, where pages that say why and how fast come after those that say how. */

const LATER = /^(docs\/decisions\/|benchmarks\/|CHANGELOG)/;

// The values are those of Sphinx's searchtools.js, which takes this object in the place of its own.
var Scorer = {
  score: ([page, , , , score]) => (LATER.test(page) ? score / 4 : score),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
