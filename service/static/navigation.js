/** Links to the cards that are shown. */

import { make } from "./dom.js";

/** Keeps `nav` at the cards that are shown; they go by what stands before the colon of their headings. */
export function followCards(nav, cards) {
  const links = new Map(cards.map((card) => {
    const [name] = card.querySelector("h2").textContent.split(":");
    return [card, make("a", { href: `#${card.id}`, textContent: name })];
  }));
  nav.replaceChildren(...links.values());
  const show = () => {
    for (const [card, link] of links) link.hidden = card.hidden;
    nav.hidden = cards.every((card) => card.hidden);
  };
  for (const card of cards) new MutationObserver(show).observe(card, { attributeFilter: ["hidden"] });
  show();
}
