/** How photos come in: dropped, pasted, chosen, taken, or one of the samples; and what is refused before it is sent. */

import { announce, make } from "./dom.js";
import { readable, twinOf } from "./photos.js";
import { SAMPLES, sampleFile, sampleUrl } from "./samples.js";

/** As many as can be compared at a glance. Requests with fewer are the business of whoever sends them. */
const MOST_PHOTOS = 64;
/** Systems do not know every one of these for a picture, and then a file has no type. */
const ENDINGS = /\.(jpe?g|png|webp|gif|bmp|tiff?|jp2|j2k|p[bgpn]m|hei[cf]|avif)$/i;

export class Intake {
  #taking = Promise.resolve();

  /** `page`: { photos, info }; info is null until it is known what the service takes. */
  constructor(section, page) {
    this.section = section;
    this.page = page;
    this.error = section.querySelector(".error");
    for (const input of section.querySelectorAll("input[type=file]")) {
      input.addEventListener("change", () => {
        this.take([...input.files]);
        input.value = ""; // so that the same file can be chosen again after it was removed
      });
    }
    section.querySelector("#samples").append(...SAMPLES.map((sample) => this.#sample(...sample)));
    this.#listen();
    page.photos.addEventListener("change", () => {
      section.classList.toggle("filled", page.photos.all.length > 0);
      this.#tell([]); // it was about the photos as they were
    });
  }

  /** Take in the files that are photos and are not here yet, and say what became of the others; after those that came before. */
  take(files) {
    if (files.length) this.#taking = this.#taking.catch(() => {}).then(() => this.#sort(files)); // whatever befell those before
  }

  /** Take in one of the page's samples. Throws an Error in words where it cannot be fetched. */
  async takeSample(name) {
    this.take([await sampleFile(name)]);
  }

  async #sort(files) {
    const { photos, info } = this.page;
    const taken = [];
    const refused = [];
    const known = [];
    for (const file of files) {
      const twin = await twinOf(file, [...photos.all, ...taken.map((each) => ({ file: each, name: each.name }))]);
      const fault = twin ? "" : await faultOf(file, info);
      if (twin) known.push(alreadyHere(file, twin));
      else if (fault) refused.push(fault);
      else taken.push(file);
      if (files.length === 1 && twin) photos.choose(twin);
    }
    const room = Math.max(0, MOST_PHOTOS - photos.all.length);
    if (taken.length > room) {
      const left = taken.splice(room).length;
      refused.push(`This page compares at most ${MOST_PHOTOS} photos: ${left} ${left === 1 ? "was" : "were"} left out.`);
    }
    photos.add(taken);
    this.#tell(refused, known);
    if (taken.length) announce(`${taken.length === 1 ? taken[0].name : `${taken.length} photos`} added`);
  }

  /** `faults`: what was refused. `notes`: what nobody did wrong. */
  #tell(faults, notes = []) {
    const line = (className) => (textContent) => make("span", { className, textContent });
    this.error.replaceChildren(...faults.map(line("")), ...notes.map(line("soft")));
    this.error.hidden = !this.error.hasChildNodes();
  }

  #listen() {
    addEventListener("paste", (event) => this.take([...event.clipboardData.files]));
    addEventListener("dragover", (event) => this.#over(event));
    addEventListener("dragleave", (event) => { if (!event.relatedTarget) this.#leave(); });
    addEventListener("drop", (event) => {
      if (!carriesFiles(event)) return;
      event.preventDefault();
      this.#leave();
      this.take([...event.dataTransfer.files]);
    });
  }

  #over(event) {
    if (!carriesFiles(event)) return;
    event.preventDefault(); // else the browser would leave the page to show the file
    event.dataTransfer.dropEffect = "copy";
    document.body.classList.add("dropping");
  }

  #leave() {
    document.body.classList.remove("dropping");
  }

  #sample(name, title) {
    const picture = make("img", { src: sampleUrl(name), alt: title, width: 96, height: 96 });
    const button = make("button", { type: "button", title }, picture);
    button.addEventListener("click", () => this.takeSample(name).catch((error) => this.#tell([error.message])));
    return button;
  }
}

function carriesFiles(event) {
  return event.dataTransfer.types.includes("Files");
}

function alreadyHere(file, photo) {
  const same = file.name === photo.name ? `${photo.name} is here already.` : `${file.name} is the same picture as ${photo.name}.`;
  return photo.fault ? `${same} It cannot be used.` : same;
}

/** Why the file cannot be taken, or the service would refuse it, as far as this can be told without it; or "". */
async function faultOf(file, info) {
  const name = file.name || "The file";
  if (!(file.type.startsWith("image/") || (!file.type && ENDINGS.test(file.name)))) return `${name} is not a photo.`;
  if (!(await readable(file))) return `${name} cannot be read: it has changed or is gone. Choose it again.`;
  if (file.size === 0) return `${name} is empty.`;
  const most = info?.limits.max_body_bytes ?? Infinity;
  if (file.size > most) return `${name} has ${megabytes(file.size)}, and this service takes at most ${megabytes(most)} at once.`;
  return "";
}

function megabytes(bytes) {
  const size = bytes / 2 ** 20;
  return size < 1 ? `${Math.ceil(bytes / 1024)} KiB` : `${Number(size.toFixed(1))} MiB`;
}
