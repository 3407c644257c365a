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
  infer: "network",
  encode: "answer",
};
const LEAST_MS = 0.05;

export class Foot {
  #timing = make("div", { className: "timing soft" });
  #curl = new Snippet("curl", "the curl command");
  #python = new Snippet("Python", "the Python lines");
  #calls = make("details", { className: "calls", hidden: true }, make("summary", { textContent: "The same from a program" }),
    this.#curl.element, this.#python.element);

  element = make("div", { className: "foot" }, this.#timing, this.#calls);

  /** `timing`: milliseconds by stage, as Server-Timing has them. `elapsed`: as the page saw it, the way there and back included. */
  showTiming(timing, elapsed) {
    const stages = Object.keys(STAGES).filter((stage) => timing[stage] >= LEAST_MS);
    const sum = stages.reduce((total, stage) => total + timing[stage], 0);
    const bar = make("div", { className: "bar" }, ...stages.map((stage) => {
      const piece = make("i", { className: stage });
      piece.style.flexGrow = timing[stage] / sum;
      return piece;
    }));
    bar.setAttribute("aria-hidden", "true");
    const words = stages.map((stage) =>
      make("span", {}, make("i", { className: stage }), `${STAGES[stage]} ${milliseconds(timing[stage])}`));
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

  constructor(name, what) {
    this.#code.className = name.toLowerCase();
    this.#code.tabIndex = 0; // it scrolls, so keys must reach it
    this.#code.setAttribute("role", "region");
    this.#code.setAttribute("aria-label", `As ${name}`);
    this.element.append(make("h3", { textContent: name }), copyButton(what, () => this.#code.textContent), this.#code);
  }

  show(text) {
    this.#code.textContent = text;
    this.element.hidden = !text;
  }
}

function summary(timing, elapsed) {
  const cached = "infer" in timing ? "" : "From the cache, in ";
  const there = elapsed === undefined ? "" : `, ${milliseconds(elapsed)} with the way there and back`;
  return `${cached}${milliseconds(timing.total ?? 0)}${there}`;
}

function milliseconds(ms) {
  return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
}
