/** The photos that are there, in a row: one is looked at, each can be taken away. */

import { announce, make } from "./dom.js";

const STEPS = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1, Home: -Infinity, End: Infinity };

export class Tray {
  #items = new Map();
  #revealed = null;

  constructor(section, photos) {
    this.photos = photos;
    this.list = section.querySelector("#tray");
    this.bar = section.querySelector("#tray-bar");
    this.name = section.querySelector("#chosen");
    section.querySelector("#remove-all").addEventListener("click", () => {
      photos.clear();
      announce("All photos removed");
      section.querySelector("input[type=file]").focus();
    });
    this.list.addEventListener("keydown", (event) => this.#key(event));
    photos.addEventListener("change", () => this.#show());
    photos.addEventListener("blame", () => this.#show());
  }

  #show() {
    const { all, chosen } = this.photos;
    for (const [photo, item] of this.#items) {
      if (all.includes(photo)) continue;
      item.element.remove();
      this.#items.delete(photo);
    }
    for (const photo of all) {
      if (!this.#items.has(photo)) this.#add(photo);
      this.#items.get(photo).update(photo === chosen);
    }
    if (chosen && chosen !== this.#revealed) this.#reveal(this.#items.get(chosen).element);
    this.#revealed = chosen;
    this.bar.hidden = all.length === 0;
    this.name.textContent = !chosen || all.length < 2 ? chosen?.name ?? "" : `${chosen.name}, ${all.indexOf(chosen) + 1} of ${all.length}`;
  }

  #add(photo) {
    const item = new Item(photo, () => this.photos.choose(photo), () => this.#remove(photo));
    this.#items.set(photo, item);
    this.list.append(item.element);
  }

  #remove(photo) {
    const hadFocus = this.list.contains(document.activeElement);
    this.photos.remove(photo);
    announce(`${photo.name} removed`);
    if (hadFocus) (this.#items.get(this.photos.chosen)?.button ?? document.querySelector("#intake input[type=file]")).focus();
  }

  /** Move the row, and not the page, until the photo can be seen. */
  #reveal(element) {
    const [box, frame] = [element.getBoundingClientRect(), this.list.getBoundingClientRect()];
    this.list.scrollLeft += Math.min(0, box.left - frame.left) + Math.max(0, box.right - frame.right);
  }

  #key(event) {
    const { all, chosen } = this.photos;
    if (event.key === "Delete" || event.key === "Backspace") {
      this.#remove(chosen);
    } else if (event.key in STEPS && !event.altKey && !event.ctrlKey && !event.metaKey) {
      const next = Math.max(0, Math.min(all.length - 1, all.indexOf(chosen) + STEPS[event.key]));
      this.photos.choose(all[next]);
      this.#items.get(all[next]).button.focus();
    } else {
      return;
    }
    event.preventDefault();
  }
}

/** A thumbnail to choose a photo by, and a button to take it away. */
class Item {
  constructor(photo, choose, remove) {
    this.photo = photo;
    this.button = make("button", { type: "button", className: "thumbnail" });
    this.button.addEventListener("click", choose);
    this.remove = make("button", { type: "button", className: "remove", textContent: "×" });
    this.remove.setAttribute("aria-label", `Remove ${photo.name}`);
    this.remove.addEventListener("click", remove);
    this.element = make("li", {}, this.button, this.remove);
    this.#fill();
  }

  /** One stop for the tabulator key: the arrows go through the others. */
  update(chosen) {
    const { name, fault } = this.photo;
    this.button.setAttribute("aria-pressed", chosen);
    this.button.setAttribute("aria-label", fault ? `${name}, cannot be used` : name);
    this.button.title = fault ? `${name}: ${fault}` : name;
    this.button.classList.toggle("faulty", Boolean(fault));
    this.button.tabIndex = this.remove.tabIndex = chosen ? 0 : -1;
  }

  async #fill() {
    const url = await this.photo.thumbnail();
    const ending = this.photo.name.split(".").pop().slice(0, 5).toUpperCase();
    this.button.replaceChildren(url
      ? make("img", { src: url, alt: "", width: 64, height: 64 })
      : make("span", { className: "unseen", textContent: ending }));
  }
}
