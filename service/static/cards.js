/** The cards: made for what is served, and made anew when that is something else. */

import { followCards } from "./navigation.js";
import { Alike } from "./panels/alike.js";
import { Anomaly } from "./panels/anomaly.js";
import { Classify } from "./panels/classify.js";
import { Embedding } from "./panels/embedding.js";
import { Features } from "./panels/features.js";
import { Keep } from "./panels/keep.js";
import { Reconstruct } from "./panels/reconstruct.js";
import { Search } from "./panels/search.js";

const CARDS = {
  reconstruct: Reconstruct, anomaly: Anomaly, features: Features, embedding: Embedding, alike: Alike, search: Search, classify: Classify, keep: Keep,
};

export class Cards {
  #panels = [];

  /** `container`: with a section for each card. `nav`: for the links to them. `page`: what every card has before it. */
  constructor(container, nav, page) {
    Object.assign(this, { container, nav, page });
    this.empty = container.cloneNode(true);
    page.photos.addEventListener("change", () => this.#panels.forEach((panel) => panel.photosChanged()));
  }

  /** Make all cards for `page.info`; nothing of those before stays, as all that they know is of the bundle before. */
  begin() {
    for (const panel of this.#panels) panel.end();
    const fresh = this.empty.cloneNode(true);
    this.container.replaceWith(fresh);
    this.container = fresh;
    this.#panels = Object.entries(CARDS).map(([id, Card]) => new Card(fresh.querySelector(`#${id}`), this.page));
    followCards(this.nav, this.#panels.map((panel) => panel.section));
    for (const panel of this.#panels) panel.photosChanged();
  }

  /** Ask again for all that is shown. */
  refresh() {
    for (const panel of this.#panels) panel.refresh();
  }
}
