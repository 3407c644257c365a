/** A card of the page: it asks the service about the photos and shows the answer, its timings, its calls and its errors. */

import { make, whenLooksChange } from "./dom.js";
import { Foot } from "./foot.js";
import { ServiceError } from "./service.js";

/**
 * Subclasses give `work(photos, signal)`, which asks through `this.ask` and draws; and may change `photos()`, the photos
 * that they are about, `offered`, whether the bundle can do this at all, `redraw()`, for what they draw themselves, and what
 * they do when there are other photos: `forget()` where those that they are about changed, `trayChanged()` where not.
 *
 * One call is under way at a time. A change of a control lets it end and then asks again with the newest values, so that
 * the card follows a slider that is dragged; a change of its photos ends it. A card that is off the screen waits.
 *
 * What has the class "stage" is dimmed while it is not up to date, and not to be seen while it shows nothing, or other photos
 * than those that failed. Errors stand below everything, or where a card has its part "trouble".
 */
export class Panel {
  #wanted = false;
  #running = null;
  #visible = false;
  #attempts = 0;
  /** The photos that it is about, answered or not. */
  #about = [];
  /** The photos of the last answer. */
  #shown = [];
  #foot = new Foot();
  #again = make("button", { type: "button", textContent: "Try again", hidden: true });

  constructor(section, page) {
    this.section = section;
    this.page = page;
    this.error = make("p", { className: "error", hidden: true });
    this.error.setAttribute("role", "alert");
    this.#again.addEventListener("click", () => this.refresh());
    (this.part("trouble") ?? section).append(this.error, this.#again);
    section.append(this.#foot.element);
    section.classList.add("empty");
    // Of several entries the last tells how it is now
    this.observer = new IntersectionObserver((entries) => this.#see(entries.at(-1).isIntersecting), { rootMargin: "25%" });
    whenLooksChange(section, () => { if (this.#shown.length) this.redraw(); });
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

  /** The card has another width or the theme other colours: draw the last answer again. */
  redraw() {}

  /** The card is about other photos now, or about none. */
  forget() {}

  /** The card is about the same photos, but others came or went, or another one is looked at. */
  trayChanged() {}

  /** The photos are others, or another one is looked at. */
  photosChanged() {
    const photos = this.photos();
    const others = !same(photos, this.#about);
    this.#about = photos;
    if (others) this.#stop();
    if (!this.offered || photos.length === 0) return this.#hide();
    this.section.hidden = false;
    this.observer.observe(this.section);
    if (others) this.refresh();
    else this.trayChanged();
  }

  /** Another card takes the place of this one. */
  end() {
    this.#stop();
    this.#hide();
    this.page.unlock.close(this);
  }

  /** Ask again, with the controls as they are now. */
  refresh() {
    this.#wanted = true;
    this.section.classList.add("busy"); // also off the screen: what is there is not up to date
    this.#run();
  }

  /** As Service.ask; what was asked and how long it took are shown below the card. `call.python`: see calls.js. */
  async ask(route, call) {
    const answer = await this.page.service.ask(route, call);
    this.showTiming(answer.timing, answer.elapsed);
    this.showCalls({ route, ...call });
    return answer;
  }

  /** See Foot. */
  showTiming(timing, elapsed) {
    this.#foot.showTiming(timing, elapsed);
  }

  /** `call`: as calls.js takes it. */
  showCalls(call) {
    this.#foot.showCalls(call, this.page.service.origin, Boolean(this.page.service.key));
  }

  showError(message) {
    if (this.error.textContent !== message) this.error.textContent = message; // else it would be read out again
    this.error.hidden = !message;
  }

  #stop() {
    this.#running?.abort();
    this.forget();
  }

  #hide() {
    this.section.hidden = true;
    this.#wanted = false;
    this.observer.disconnect();
    this.#visible = false;
  }

  #see(visible) {
    this.#visible = visible;
    if (visible) this.#run();
  }

  async #run() {
    if (!this.#wanted || !this.#visible || this.#running) return;
    this.#wanted = false;
    this.#attempts += 1;
    const photos = this.photos();
    const controller = (this.#running = new AbortController());
    try {
      await this.work(photos, controller.signal);
      this.#succeed(photos);
    } catch (error) {
      if (!controller.signal.aborted) this.#fail(error, photos);
    }
    this.#running = null;
    if (!this.#wanted) this.section.classList.remove("busy");
    this.#run();
  }

  #succeed(photos) {
    this.#shown = photos;
    this.section.classList.remove("empty");
    this.showError("");
    this.#again.hidden = true;
    this.page.unlock.close(this);
  }

  #fail(error, photos) {
    this.section.classList.toggle("empty", !same(photos, this.#shown));
    if (!(error instanceof ServiceError)) {
      this.showError(error.message);
      if (error instanceof TypeError || error instanceof ReferenceError) console.error(error); // ours
      return;
    }
    const blamed = photos[error.index ?? -1];
    const name = blamed ? `${blamed.name}: ` : "";
    this.showError(name + error.message + (error.passes ? ` ${promise(error)}` : ""));
    this.#again.hidden = !error.worthRepeating;
    if (blamed) this.page.photos.blame(blamed, error.message);
    if (error.status === 401) this.page.unlock.open(this);
    if (error.passes) this.#tryLater(error);
  }

  /** Go on by itself, unless something else has been asked for meanwhile. */
  async #tryLater(error) {
    const attempt = this.#attempts;
    await this.page.service.recovered(error);
    if (attempt === this.#attempts && !this.section.hidden) this.refresh();
  }
}

function promise({ wait, status }) {
  return status === 429 && wait ? `This goes on by itself in ${wait} s.` : "This goes on by itself once it can.";
}

function same(these, those) {
  return these.length === those.length && these.every((photo, i) => photo === those[i]);
}
