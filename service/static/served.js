/** What the header says is served: a line for everyone, and the details for those who want them. */

import { make } from "./dom.js";

/** `info`: as GET /info tells it. */
export function showServed(info, line, details) {
  const { name, model, runtime } = info;
  line.replaceChildren(make("strong", { textContent: name }), ` on ${runtime.device === "cpu" ? "the CPU" : runtime.device}, ${runtime.name}`);
  details.querySelector("dl").replaceChildren(...rows(info).flatMap(([term, text]) => [make("dt", { textContent: term }), make("dd", { textContent: text })]));
  details.hidden = false;
  details.querySelector("p").textContent = lacking(info);
}

function rows({ version, digest, model, pooling, provenance, runtime, limits, num_classes: numClasses }) {
  const [height, width] = model.image_size;
  const [rows, columns] = model.grid;
  const colours = { 1: "grey", 3: "colour", 4: "colour and transparency" }[model.channels] ?? `${model.channels} channels`;
  return [
    ["It sees", `${width} × ${height} pixels in ${colours}, cut into ${columns} × ${rows} patches of ${model.patch_size} × ${model.patch_size}`],
    ["It gives", `vectors of ${model.dim} values (${pooling} pooling)${numClasses ? `, and one of ${numClasses} labels` : ""}`],
    ["Network", `${model.depth} layers, trained on ${provenance.dataset}, ${count(provenance.num_images)} images, ${provenance.epochs} epochs`],
    ["Runs in", `${runtime.name} on ${runtime.device}, ${runtime.precision}`],
    ["Takes", `up to ${limits.max_images} photos and ${Math.floor(limits.max_body_bytes / 2 ** 20)} MiB per request, ${count(limits.max_pixels)} pixels per photo`],
    ["Version", `Maeve ${version}, bundle ${digest.slice(0, 12)}`],
  ];
}

/** What this bundle cannot do, and so has no card. */
function lacking({ operations }) {
  return [
    operations.reconstruct ? "" : "It was exported without a decoder, so hidden patches cannot be reconstructed.",
    operations.classify ? "" : "It was exported without a classifier, so photos get no labels.",
  ].join(" ").trim();
}

function count(number) {
  return number.toLocaleString("en");
}
