/** The service's small pictures of what an index holds: fetched once they come near the screen, a few at a time. */

import { make } from "./dom.js";

const AT_ONCE = 3; // a browser has six connections to a service, and photos are sent over them too
const MOST_KEPT = 300; // some 10 KB each

/**
 * They are fetched, not named in `src`: only so can the key be sent, a busy service be asked again, and one that is gone be
 * waited for.
 */
export class Thumbnails {
  #pictures = new Map(); // address -> promise of a data URI, the oldest first
  #addresses = new WeakMap(); // of images that have come near the screen or may still do so
  #waiting = new Set(); // those near the screen, in the order in which they came there
  #numRunning = 0;

  constructor(service) {
    this.service = service;
    this.observer = new IntersectionObserver((entries) => entries.forEach((entry) => this.#see(entry)), { rootMargin: "50%" });
  }

  /** An image of the picture at this address; of the class "missing" where there is none, or the address is null. */
  image(address, properties) {
    const image = make("img", properties);
    if (address === null) {
      image.classList.add("missing");
    } else if (this.#pictures.has(address)) {
      this.#fill(image, address);
    } else {
      this.#addresses.set(image, address);
      this.observer.observe(image);
    }
    return image;
  }

  /** The picture as a data URI, whenever the service has it to give. Throws a ServiceError that does not pass. */
  picture(address) {
    let picture = this.#pictures.get(address);
    if (!picture) {
      if (this.#pictures.size === MOST_KEPT) this.#pictures.delete(this.#pictures.keys().next().value);
      picture = patiently(this.service, address);
      this.#pictures.set(address, picture);
      picture.catch(() => this.#pictures.delete(address)); // it may be there another time
    }
    return picture;
  }

  /** The images made so far are not wanted any more; what is being fetched is kept. */
  drop() {
    this.#waiting.clear();
    this.observer.disconnect();
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
      this.#fill(image, this.#addresses.get(image)).finally(() => {
        this.#numRunning -= 1;
        this.#next();
      });
    }
  }

  async #fill(image, address) {
    try {
      image.src = await this.picture(address);
    } catch {
      image.classList.add("missing");
    }
  }
}

async function patiently(service, address) {
  for (;;) {
    try {
      return await service.picture(address);
    } catch (error) {
      if (!error.passes) throw error;
      await service.recovered(error);
    }
  }
}
