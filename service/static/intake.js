/** How photos come in: dropped, pasted, chosen, taken, or one of the samples; and the tray that shows them. */

import { make } from "./panel.js";
import { ServiceError } from "./service.js";

const SAMPLES = [
  ["cat.jpg", "A cat"],
  ["cat-closer.jpg", "The same cat, closer"],
  ["coffee.jpg", "A cup of coffee"],
  ["astronaut.jpg", "An astronaut"],
  ["rocket.jpg", "A rocket"],
  ["galaxies.jpg", "Galaxies"],
];

export class Intake {
  constructor(section, photos) {
    this.photos = photos;
    this.drop = section.querySelector("#drop");
    this.error = section.querySelector(".error");
    this.tray = section.querySelector("#tray");
    for (const input of section.querySelectorAll("input[type=file]"))
      input.addEventListener("change", () => this.#take([...input.files]));
    section.querySelector("#samples").append(...SAMPLES.map((sample) => this.#sample(...sample)));
    addEventListener("paste", (event) => this.#take([...event.clipboardData.files]));
    addEventListener("dragover", (event) => { event.preventDefault(); this.drop.classList.add("over"); });
    addEventListener("dragleave", () => this.drop.classList.remove("over"));
    addEventListener("drop", (event) => {
      event.preventDefault();
      this.drop.classList.remove("over");
      this.#take([...event.dataTransfer.files]);
    });
    photos.addEventListener("change", () => this.#showTray());
  }

  #take(files) {
    this.photos.add(files);
  }

  #sample(name, title) {
    const button = make("button", { type: "button", title }, make("img", { src: `static/samples/${name}`, alt: title, width: 96, height: 96 }));
    button.addEventListener("click", async () => {
      const blob = await (await fetch(`static/samples/${name}`)).blob();
      this.#take([new File([blob], name, { type: blob.type })]);
    });
    return button;
  }

  #showTray() {
    this.tray.replaceChildren(...this.photos.all.map((photo) => {
      const button = make("button", { type: "button" }, make("img", { src: photo.url, alt: photo.name, width: 64, height: 64 }));
      button.setAttribute("aria-pressed", photo === this.photos.chosen);
      button.addEventListener("click", () => this.photos.choose(photo));
      return button;
    }));
  }
}
