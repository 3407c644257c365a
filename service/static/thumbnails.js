/** The service's small pictures of what an index holds: fetched once they come near the screen, a few at a time. */

import { make } from "./dom.js";

const AT_ONCE = 3; // a browser has six connections to a service, and photos are sent over them too
const MOST_KEPT = 300; // some 10 KB each

/**
 * They are fetched, not named in `src`: only so can the key be sent, a busy service be asked again, and one that is gone be
 * waited for.
 */
export class Thumbnails {
  #kept = new Map(); // address -> data URI
  #addresses = new WeakMap(); // of images that are without their picture
  #waiting = new Set(); // those near the screen, in the order in which they came there
  #numRunning = 0;
  #current = new AbortController();

  constructor(service) {
    this.service = service;
    this.observer = new IntersectionObserver((entries) => entries.forEach((entry) => this.#see(entry)), { rootMargin: "50%" });
  }

  /** An image of the picture at this address; of the class "missing" where there is none, or the address is null. */
  image(address, properties) {
    const image = make("img", properties);
    if (address === null) {
      image.classList.add("missing");
    } else if (this.#kept.has(address)) {
      image.src = this.#kept.get(address);
    } else {
      this.#addresses.set(image, address);
      this.observer.observe(image);
    }
    return image;
  }

  /** The picture as a data URI, whenever the service has it to give. Throws a ServiceError that does not pass, or an AbortError. */
  async picture(address, signal) {
    while (!this.#kept.has(address)) {
      try {
        this.#keep(address, await this.service.picture(address, signal));
      } catch (error) {
        if (!error.passes) throw error;
        await this.service.recovered(error);
        signal.throwIfAborted();
      }
    }
    return this.#kept.get(address);
  }

  /** The images made so far are not wanted any more. */
  drop() {
    this.#current.abort();
    this.#current = new AbortController();
    this.#waiting.clear();
    this.observer.disconnect();
  }

  #keep(address, picture) {
    if (this.#kept.size === MOST_KEPT) this.#kept.delete(this.#kept.keys().next().value);
    this.#kept.set(address, picture);
  }

  #see({ target, isIntersecting }) {
    if (isIntersecting) this.#waiting.add(target);
    else this.#waiting.delete(target);
    this.#next();
  }

  #next() {
    for (const image of this.#waiting) {
      if (this.#numRunning === AT_ONCE) return;
      this.#waiting.delete(image);
      this.observer.unobserve(image);
      this.#numRunning += 1;
      this.#fill(image, this.#current.signal).finally(() => {
        this.#numRunning -= 1;
        this.#next();
      });
    }
  }

  async #fill(image, signal) {
    try {
      image.src = await this.picture(this.#addresses.get(image), signal);
    } catch {
      if (!signal.aborted) image.classList.add("missing");
    }
  }
}
