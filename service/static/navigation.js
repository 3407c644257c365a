/** Links to the cards that are shown. */

import { make } from "./dom.js";

/** What a card is called where room is short; others go by their headings. */
const SHORT = {
  reconstruct: "Hidden patches",
  anomaly: "The unexpected",
  features: "Features",
  embedding: "Vector",
  alike: "Likeness",
  classify: "Labels",
  keep: "Speed",
};

/** Keeps `nav` at the cards that are shown. */
export function followCards(nav, cards) {
  const links = new Map(cards.map((card) => {
    const text = SHORT[card.id] ?? card.querySelector("h2").textContent;
    return [card, make("a", { href: `#${card.id}`, textContent: text })];
  }));
  nav.replaceChildren(...links.values());
  const show = () => {
    for (const [card, link] of links) link.hidden = card.hidden;
    nav.hidden = cards.every((card) => card.hidden);
  };
  for (const card of cards) new MutationObserver(show).observe(card, { attributeFilter: ["hidden"] });
  show();
}
