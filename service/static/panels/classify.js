/** What the classifier takes the photo for. */

import { Panel, make } from "../panel.js";

export class Classify extends Panel {
  get offered() {
    return this.page.info.operations.classify;
  }

  async work(photos, signal) {
    const python = { method: "classify", args: [["top_k", 5]] };
    const { body } = await this.ask("classify", { photos, params: { top_k: 5 }, signal, python });
    this.part("labels").replaceChildren(...body.predictions[0].map(row));
  }
}

function row({ label, probability }) {
  const bar = make("i");
  bar.style.width = `${100 * probability}%`;
  return make("li", {}, make("span", { textContent: label }), bar, make("b", { textContent: `${(100 * probability).toFixed(1)} %` }));
}
