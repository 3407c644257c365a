/** The page at /: asks what is served, then shows the cards that the bundle offers for the photos that come in. */

import { Cards } from "./cards.js";
import { announce } from "./dom.js";
import { Intake } from "./intake.js";
import { Photos } from "./photos.js";
import { showServed } from "./served.js";
import { Service, pause } from "./service.js";
import { Tray } from "./tray.js";
import { Unlock } from "./unlock.js";

/** While services are replaced one by one behind one address, their answers alternate: the page does not dance to that. */
const LEAST_BETWEEN_MS = 5000;
const $ = (id) => document.getElementById(id);

/** What every card has before it: what is served (GET /info), the service, the photos, how they come in, the form for the key. */
const page = { info: null, service: new Service(), photos: new Photos(), intake: null, unlock: null };

async function start() {
  new Tray($("intake"), page.photos);
  page.intake = new Intake($("intake"), page);
  const cards = new Cards($("panels"), $("cards"), page);
  page.unlock = new Unlock($("unlock"), (key) => {
    page.service.key = key;
    cards.refresh();
  });
  await showWhatIsServed(cards);
}

/** Make the cards for the bundle that is served, and all of them anew whenever another has taken its place. */
async function showWhatIsServed(cards) {
  for (let before = null; ; before = page.info.digest) {
    page.info = await served();
    showServed(page.info, $("served"), $("details"));
    cards.begin();
    if (before !== null && before !== page.info.digest) say(`Another network is served now: ${page.info.name}. All cards have begun anew with it.`);
    const replaced = new Promise((resolve) => { page.service.addEventListener("replaced", resolve, { once: true }); });
    await Promise.all([replaced, pause(LEAST_BETWEEN_MS)]);
  }
}

function say(text) {
  $("replaced").textContent = text;
  $("replaced").hidden = false;
  announce(text);
}

/** What GET /info tells; until it does, the page says why it does not and goes on by itself. */
async function served() {
  for (;;) {
    try {
      const info = await page.service.info();
      $("trouble").hidden = true;
      return info;
    } catch (error) {
      $("trouble").hidden = false;
      $("trouble").querySelector(".error").textContent = error.message;
      const clicked = new Promise((resolve) => { $("retry").onclick = resolve; });
      await (error.passes ? Promise.race([clicked, page.service.recovered(error)]) : clicked);
    }
  }
}

start();
