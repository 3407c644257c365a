/** The photos that the page works on, and which of them is looked at. Dispatches "change". */

const THUMBNAIL_PIXELS = 160;

/** One photo. `name`: its own among the photos. `fault`: why it cannot be used, or "". */
class Photo {
  #thumbnail = null;
  fault = "";

  constructor(file, name) {
    this.file = file;
    this.name = name;
  }

  /** The address of a small picture, upright and cut to a square; null where the browser cannot show the file. */
  thumbnail() {
    return (this.#thumbnail ??= shrink(this.file));
  }
}

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
    for (const file of files) this.#photos.push(new Photo(file, this.#free(file.name || "photo")));
    this.#changed();
  }

  choose(photo) {
    if (photo === this.chosen) return;
    this.#chosen = this.#photos.indexOf(photo);
    this.#changed();
  }

  remove(photo) {
    const index = this.#photos.indexOf(photo);
    this.#photos.splice(index, 1);
    if (index < this.#chosen || this.#chosen === this.#photos.length) this.#chosen = Math.max(0, this.#chosen - 1);
    this.#changed();
  }

  clear() {
    this.#photos = [];
    this.#chosen = 0;
    this.#changed();
  }

  /** The service cannot use this photo. Dispatches "blame", no "change": nothing needs to be asked anew. */
  blame(photo, fault) {
    photo.fault = fault;
    this.dispatchEvent(new Event("blame"));
  }

  /** The name, or one with a number where another photo has it: names tell photos apart, in lists and in commands. */
  #free(name) {
    const taken = new Set(this.#photos.map((photo) => photo.name));
    const [, stem, ending] = /^(.*?)(\.[^.]*)?$/s.exec(name);
    let free = name;
    for (let i = 2; taken.has(free); i++) free = `${stem}-${i}${ending || ""}`;
    return free;
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

/** Whether the file can be read: browsers refuse to where it has changed on the disk, or is gone, since it was chosen. */
export async function readable(file) {
  return (await bytesOf(file.size ? file.slice(0, 1) : file)) !== null; // one that is gone may have the size 0
}

/** The first of `others`, each with a `file`, whose bytes are those of `file`; or undefined. */
export async function twinOf(file, others) {
  const alike = others.filter((other) => other.file.size === file.size);
  const bytes = alike.length ? await bytesOf(file) : null;
  if (!bytes) return undefined;
  for (const other of alike) {
    const compared = await bytesOf(other.file);
    if (compared && bytes.every((byte, i) => byte === compared[i])) return other;
  }
  return undefined;
}

/** A Uint8Array, or null where the file cannot be read. */
async function bytesOf(file) {
  return file.arrayBuffer().then((buffer) => new Uint8Array(buffer), () => null);
}

/** A photo of a phone takes 50 MB as pixels, so a tray of them shows small copies instead. */
async function shrink(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return null;
  }
  const side = Math.min(bitmap.width, bitmap.height);
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = THUMBNAIL_PIXELS;
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(bitmap, (bitmap.width - side) / 2, (bitmap.height - side) / 2, side, side, 0, 0, THUMBNAIL_PIXELS, THUMBNAIL_PIXELS);
  bitmap.close();
  return canvas.toDataURL(); // not of a blob: a photo may go while its picture is being loaded
}
