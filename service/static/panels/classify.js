/** What the classifier takes the photo for, how sure it is, and what there is that it could have said. */

import { make } from "../dom.js";
import { Panel } from "../panel.js";
import { percent } from "../words.js";

const COUNTS = [3, 5, 10];
// Where the export wrote how often the first guess was right, the most telling first
const METRICS = ["test_top1", "probe_test_top1", "val_top1", "probe_val_top1"];

export class Classify extends Panel {
  constructor(section, page) {
    super(section, page);
    if (!this.offered) return;
    this.numClasses = page.info.num_classes;
    const counts = COUNTS.filter((count) => count < this.numClasses);
    if (this.numClasses <= Math.max(...COUNTS)) counts.push(this.numClasses);
    this.count = counts.includes(5) ? 5 : counts.at(-1);
    this.part("counts").append(...counts.map((count) => this.#countButton(count)));
    this.part("counts").parentElement.hidden = counts.length === 1;
    this.part("about").textContent = about(page.info);
  }

  get offered() {
    return this.page.info.operations.classify;
  }

  async work(photos, signal) {
    const count = this.count;
    const python = { method: "classify", args: [["top_k", count]] };
    const { body } = await this.ask("classify", { photos, params: { top_k: count }, signal, python });
    const guesses = body.predictions[0];
    const others = this.numClasses - guesses.length;
    const rest = Math.max(0, 1 - guesses.reduce((sum, { probability }) => sum + probability, 0));
    this.part("said").textContent = verdict(guesses[0]);
    this.part("labels").replaceChildren(...guesses.map(({ label, probability }) => row(label, probability)));
    if (others > 0) this.part("labels").append(row(others === 1 ? "The other class" : `All ${others} others together`, rest, "rest"));
  }

  #countButton(count) {
    const button = make("button", { type: "button", textContent: count === this.numClasses ? `all ${count}` : count });
    button.setAttribute("aria-pressed", count === this.count);
    button.addEventListener("click", () => {
      this.count = count;
      for (const each of this.part("counts").children) each.setAttribute("aria-pressed", each === button);
      this.refresh();
    });
    return button;
  }
}

/** What the classifier is, from GET /info. */
function about({ num_classes, provenance: { dataset, metrics } }) {
  const metric = METRICS.find((name) => name in metrics);
  const right = metric
    ? ` Of the photos held out in training, its first guess was right for ${percent(metrics[metric])}.`
    : "";
  return `A classifier on top of the network, trained on ${dataset}, knows ${num_classes} classes and nothing else: whatever ` +
    `a photo shows, it names one of these.${right}`;
}

function verdict({ label, probability }) {
  return `Its first guess is “${label}”, at ${percent(probability, 1)}.`;
}

function row(label, probability, className = "") {
  const bar = make("i");
  bar.style.width = `${100 * probability}%`;
  const [name, value] = [make("span", { textContent: label }), make("b", { textContent: percent(probability, 1) })];
  return make("li", { className }, name, make("div", { className: "track" }, bar), value);
}
