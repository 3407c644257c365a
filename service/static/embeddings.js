/** The vectors of many photos: asked for in as many requests as the service's limits need, and remembered. */

// What a photo's own headers may add to a multipart body
const PART_BYTES = 1024;

export class Embeddings {
  #vectors = {}; // pooling -> WeakMap of photo -> vector
  #faults = new WeakMap(); // photo -> what is wrong with it, in words
  /** Called with a photo that the service refuses, and why. */
  onFault = () => {};

  /** `ask(photos, pooling, signal)`: POST /embed, as Panel.ask. `limits`: those of GET /info. */
  constructor(ask, limits) {
    this.ask = ask;
    this.limits = limits;
  }

  /** The photo's vector, or undefined while it is not known. */
  vector(photo, pooling) {
    return this.#vectors[pooling]?.get(photo);
  }

  /** What is wrong with the photo, or undefined. */
  fault(photo) {
    return this.#faults.get(photo);
  }

  /**
   * Ask for what is not known yet. A photo that the service refuses gets a fault, and the others are asked for without
   * it. Throws a ServiceError that is no photo's fault, or an AbortError; what came before stays known.
   */
  async gather(photos, pooling, signal) {
    for (;;) {
      const missing = photos.filter((photo) => !this.vector(photo, pooling) && !this.fault(photo));
      if (!missing.length) return;
      for (const batch of this.batches(missing)) await this.#embed(batch, pooling, signal);
    }
  }

  /** The photos in runs that one request takes. */
  batches(photos) {
    const batches = [];
    let bytes = Infinity;
    for (const photo of photos) {
      const size = photo.file.size + PART_BYTES;
      if (bytes + size > this.limits.max_body_bytes || batches.at(-1).length === this.limits.max_images) {
        batches.push([]);
        bytes = 0;
      }
      batches.at(-1).push(photo);
      bytes += size;
    }
    return batches;
  }

  async #embed(batch, pooling, signal) {
    let answer;
    try {
      answer = await this.ask(batch, pooling, signal);
    } catch (error) {
      if (!error.aboutPhotos) throw error;
      return this.#blame(error, batch, pooling, signal);
    }
    const known = (this.#vectors[pooling] ??= new WeakMap());
    batch.forEach((photo, i) => known.set(photo, answer.body.embeddings[i]));
  }

  /** The photo that the error names, or the only one; else find it by halves. The rest of the batch is left to `gather`. */
  async #blame(error, batch, pooling, signal) {
    const index = batch.length === 1 ? 0 : error.index;
    if (index !== null) {
      this.#faults.set(batch[index], error.message);
      return this.onFault(batch[index], error.message);
    }
    const half = Math.ceil(batch.length / 2);
    await this.#embed(batch.slice(0, half), pooling, signal);
    await this.#embed(batch.slice(half), pooling, signal);
  }
}
