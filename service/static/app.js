/** The page at /: asks what is served, then shows the cards that the bundle offers for the photos that come in. */

import { Intake } from "./intake.js";
import { Alike } from "./panels/alike.js";
import { Anomaly } from "./panels/anomaly.js";
import { Classify } from "./panels/classify.js";
import { Embedding } from "./panels/embedding.js";
import { Features } from "./panels/features.js";
import { Keep } from "./panels/keep.js";
import { Reconstruct } from "./panels/reconstruct.js";
import { Photos } from "./photos.js";
import { Service } from "./service.js";

const CARDS = { reconstruct: Reconstruct, anomaly: Anomaly, features: Features, embedding: Embedding, alike: Alike, classify: Classify, keep: Keep };
const $ = (id) => document.getElementById(id);

/** What every card has before it: what is served (GET /info), the service, the photos. */
const page = { info: null, service: new Service(), photos: new Photos() };

function describe({ name, model, provenance, runtime }) {
  return `Serving ${name}: ${model.image_size.join(" × ")} pixels in ${model.num_patches} patches, ${model.dim} values, ` +
    `trained on ${provenance.dataset}; ${runtime.name} on ${runtime.device} in ${runtime.precision}.`;
}

async function start() {
  new Intake($("intake"), page.photos);
  try {
    page.info = await page.service.info();
  } catch (error) {
    $("served").textContent = error.message;
    $("served").classList.add("error");
    return;
  }
  $("served").textContent = describe(page.info);
  const panels = Object.entries(CARDS).map(([id, Card]) => new Card($(id), page));
  const refresh = () => panels.forEach((panel) => panel.photosChanged());
  page.photos.addEventListener("change", refresh);
  page.service.onLocked = () => { $("unlock").hidden = false; };
  $("unlock").addEventListener("submit", (event) => {
    event.preventDefault();
    page.service.key = $("key").value;
    $("unlock").hidden = true;
    refresh();
  });
  refresh();
}

start();
