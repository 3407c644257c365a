/** The photos that the page works on, and which of them is looked at. Dispatches "change". */

export class Photos extends EventTarget {
  #photos = [];
  #chosen = 0;

  get all() {
    return this.#photos;
  }

  /** The photo that is looked at, or undefined while there is none. */
  get chosen() {
    return this.#photos[this.#chosen];
  }

  /** Files or blobs; the first of them becomes the one that is looked at. */
  add(files) {
    if (!files.length) return;
    this.#chosen = this.#photos.length;
    for (const file of files) {
      const url = URL.createObjectURL(file);
      this.#photos.push({ file, name: file.name || "photo", url, thumbnail: async () => url });
    }
    this.#changed();
  }

  choose(photo) {
    this.#chosen = this.#photos.indexOf(photo);
    this.#changed();
  }

  remove(photo) {
    const index = this.#photos.indexOf(photo);
    URL.revokeObjectURL(photo.url);
    this.#photos.splice(index, 1);
    if (index < this.#chosen || this.#chosen === this.#photos.length) this.#chosen = Math.max(0, this.#chosen - 1);
    this.#changed();
  }

  /** The service cannot use this photo. */
  blame(photo, fault) {
    photo.fault = fault;
    this.dispatchEvent(new Event("blame"));
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}
