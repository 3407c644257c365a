/** A card of the page: it asks the service about the photos and shows the answer, its timings, its calls and its errors. */

import { curl, python } from "./calls.js";

/**
 * Subclasses give `work(photos, signal)`, which asks through `this.ask` and draws; and may change `photos()`, the photos
 * that they are about, and `offered`, whether the bundle can do this at all.
 *
 * One call is under way at a time. A change of a control lets it end and then asks again with the newest values, so that
 * the card follows a slider that is dragged; a change of the photos ends it. A card that is off the screen waits.
 */
export class Panel {
  #wanted = false;
  #running = null;
  #visible = false;

  constructor(section, page) {
    this.section = section;
    this.page = page;
    this.#addFoot();
    this.observer = new IntersectionObserver(([entry]) => this.#see(entry.isIntersecting), { rootMargin: "25%" });
  }

  get offered() {
    return true;
  }

  /** An element of the card, by its `data-part`. */
  part(name) {
    return this.section.querySelector(`[data-part="${name}"]`);
  }

  photos() {
    const chosen = this.page.photos.chosen;
    return chosen ? [chosen] : [];
  }

  /** The photos are others, or another one is looked at. */
  photosChanged() {
    const photos = this.photos();
    this.#running?.abort();
    this.section.hidden = !this.offered || photos.length === 0;
    if (this.section.hidden) {
      this.#wanted = false;
      this.observer.disconnect();
      this.#visible = false;
      return;
    }
    this.observer.observe(this.section);
    this.refresh();
  }

  /** Ask again, with the controls as they are now. */
  refresh() {
    this.#wanted = true;
    this.#run();
  }

  /** As Service.ask; what was asked and how long it took are shown below the card. `python`: see calls.js. */
  async ask(route, call) {
    const answer = await this.page.service.ask(route, call);
    this.showTiming(answer.timing);
    this.showCalls({ route, ...call });
    return answer;
  }

  showTiming(timing) {
    const stages = Object.entries(timing).filter(([stage, ms]) => stage === "total" || ms >= 0.05);
    const cached = !("infer" in timing);
    const said = stages.map(([stage, ms]) => `${stage} ${ms.toFixed(1)} ms`).join(", ");
    this.timing.textContent = cached ? `From the cache: ${said}` : said;
  }

  showCalls(call) {
    const origin = new URL(".", document.baseURI).href;
    const locked = Boolean(this.page.service.key);
    this.calls.hidden = false;
    this.curl.textContent = curl(call, origin, locked);
    this.python.textContent = call.python ? python(call, origin, locked) : "";
    this.python.hidden = !call.python;
  }

  showError(message) {
    this.error.textContent = message;
    this.error.hidden = !message;
  }

  #see(visible) {
    this.#visible = visible;
    if (visible) this.#run();
  }

  async #run() {
    if (!this.#wanted || !this.#visible || this.#running) return;
    this.#wanted = false;
    const controller = (this.#running = new AbortController());
    this.section.classList.add("busy");
    try {
      await this.work(this.photos(), controller.signal);
      this.showError("");
    } catch (error) {
      if (error.name !== "AbortError") this.showError(error.message);
    }
    this.#running = null;
    if (!this.#wanted) this.section.classList.remove("busy");
    this.#run();
  }

  #addFoot() {
    this.error = make("p", { className: "error", hidden: true });
    this.error.setAttribute("role", "alert");
    this.timing = make("p", { className: "soft timing" });
    this.curl = make("pre", { className: "curl" });
    this.python = make("pre", { className: "python" });
    this.calls = make("details", { className: "calls", hidden: true }, make("summary", { textContent: "The same from a program" }), this.curl, this.python);
    this.section.append(this.error, make("div", { className: "foot" }, this.timing, this.calls));
  }
}

/** An element with these properties and children. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** A colour of the style sheet, such as "--accent", as the theme has it now: "rgb(36, 86, 199)". */
export function colour(name, element = document.body) {
  const probe = make("span", { hidden: true });
  probe.style.color = `var(${name})`;
  element.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}
