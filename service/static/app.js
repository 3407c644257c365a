/** The page at /: asks what is served, then shows the cards that the bundle offers for the photos that come in. */

import { Intake } from "./intake.js";
import { followCards } from "./navigation.js";
import { Alike } from "./panels/alike.js";
import { Anomaly } from "./panels/anomaly.js";
import { Classify } from "./panels/classify.js";
import { Embedding } from "./panels/embedding.js";
import { Features } from "./panels/features.js";
import { Keep } from "./panels/keep.js";
import { Reconstruct } from "./panels/reconstruct.js";
import { Photos } from "./photos.js";
import { showServed } from "./served.js";
import { Service } from "./service.js";
import { Tray } from "./tray.js";
import { Unlock } from "./unlock.js";

const CARDS = { reconstruct: Reconstruct, anomaly: Anomaly, features: Features, embedding: Embedding, alike: Alike, classify: Classify, keep: Keep };
const $ = (id) => document.getElementById(id);

/** What every card has before it: what is served (GET /info), the service, the photos, the form for the key. */
const page = { info: null, service: new Service(), photos: new Photos(), unlock: null };

async function start() {
  new Tray($("intake"), page.photos);
  new Intake($("intake"), page);
  page.info = await served();
  showServed(page.info, $("served"), $("details"));
  const panels = Object.entries(CARDS).map(([id, Card]) => new Card($(id), page));
  page.unlock = new Unlock($("unlock"), (key) => {
    page.service.key = key;
    for (const panel of panels) panel.refresh();
  });
  const refresh = () => panels.forEach((panel) => panel.photosChanged());
  page.photos.addEventListener("change", refresh);
  followCards($("cards"), panels.map((panel) => panel.section));
  refresh();
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
