/** The foot of a card: how long its answer took, and how a program gets the same. */

import { curl, python } from "./calls.js";
import { copyButton } from "./clipboard.js";
import { make } from "./dom.js";

/** The stages of a request in their order, and what they are called on the page. */
const STAGES = {
  read: "upload",
  cache: "look-up",
  decode: "decode",
  queue: "wait",
  infer: "model",
  search: "search",
  encode: "answer",
};
const LEAST_MS = 0.1;

export class Foot {
  #timing = make("div", { className: "timing soft" });
  #curl = new Snippet("curl", "the curl command");
  #python = new Snippet("Python", "the Python lines", "In a clone of Maeve, after pip install -e '.[client]'");
  #calls = make("details", { className: "calls", hidden: true }, make("summary", { textContent: "The same from a program" }),
    this.#curl.element, this.#python.element);

  element = make("div", { className: "foot" }, this.#timing, this.#calls);

  /** `timing`: milliseconds by stage, as Server-Timing has them. `elapsed`: as the page saw it, the way there and back included. */
  showTiming(timing, elapsed) {
    const stages = Object.keys(STAGES).filter((stage) => timing[stage] >= LEAST_MS);
    const sum = stages.reduce((total, stage) => total + timing[stage], 0);
    const bar = make("div", { className: "bar" }, ...stages.map((stage) => {
      const piece = mark(stage);
      piece.style.flexGrow = timing[stage] / sum;
      return piece;
    }));
    const words = stages.map((stage) => make("span", {}, mark(stage), `${STAGES[stage]} ${milliseconds(timing[stage])}`));
    this.#timing.replaceChildren(bar, make("p", {}, make("span", { textContent: summary(timing, elapsed) }), ...words));
  }

  /** `call`: as calls.js takes it. */
  showCalls(call, origin, locked) {
    this.#calls.hidden = false;
    this.#curl.show(curl(call, origin, locked));
    this.#python.show(call.python ? python(call, origin, locked) : "");
  }
}

/** A block of code with its copy button; nothing at all while it is empty. */
class Snippet {
  #code = make("pre");
  element = make("div", { className: "snippet", hidden: true });

  /** `note`: what to know before, if anything. */
  constructor(name, what, note = "") {
    this.#code.className = name.toLowerCase();
    this.#code.tabIndex = 0; // it scrolls, so keys must reach it
    this.#code.setAttribute("role", "region");
    this.#code.setAttribute("aria-label", `As ${name}`);
    const head = make("h3", {}, name, make("small", { textContent: note }));
    this.element.append(head, copyButton(what, () => this.#code.textContent), this.#code);
  }

  show(text) {
    this.#code.textContent = text;
    this.element.hidden = !text;
  }
}

/** A spot in the colour of the stage. */
function mark(stage) {
  const element = make("span", { className: "mark" });
  element.dataset.stage = stage;
  return element;
}

function summary(timing, elapsed) {
  const cached = "infer" in timing ? "" : "From the cache: ";
  const inAll = elapsed === undefined ? "" : `, ${milliseconds(elapsed)} in all`;
  return `${cached}${milliseconds(timing.total ?? 0)} in the service${inAll}`;
}

function milliseconds(ms) {
  return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
}
