/** What the header says is served: a line for everyone, and the details for those who want them. */

import { make } from "./dom.js";

const RUNTIMES = {
  onnxruntime: "ONNX Runtime",
  "onnxruntime-tensorrt": "ONNX Runtime with TensorRT",
  openvino: "OpenVINO",
  tensorrt: "TensorRT",
};

/** `info`: as GET /info tells it. */
export function showServed(info, line, details) {
  const { name, model } = info;
  line.replaceChildren(make("strong", { textContent: name }), ` sees ${pixels(model)}, runs ${place(info.runtime)}`);
  details.querySelector("dl").replaceChildren(...rows(info).flatMap(([term, text]) => [make("dt", { textContent: term }), make("dd", { textContent: text })]));
  details.querySelector("p").textContent = lacking(info);
  details.hidden = false;
}

function rows({ version, digest, model, pooling, provenance, runtime, limits, num_classes: numLabels, search }) {
  const [rows, columns] = model.grid;
  const colours = { 1: "grey", 3: "colour", 4: "colour and transparency" }[model.channels] ?? `${model.channels} channels`;
  return [
    ["It sees", `${pixels(model)} in ${colours}, as ${columns} × ${rows} patches of ${model.patch_size} × ${model.patch_size}`],
    ["It gives", `vectors of ${model.dim} values (${pooling} pooling)${numLabels ? `, and the likeliest of ${count(numLabels)} labels` : ""}`],
    ["Network", `${model.depth} layers, trained on ${count(provenance.num_images)} images of ${provenance.dataset} for ${provenance.epochs} epochs`],
    ...(search ? [["It searches", `${count(search.num_rows)} images${search.thumbnails ? ", with their pictures" : ""}`]] : []),
    ["Runs", `${place(runtime)} in ${runtime.precision}`],
    ["Takes", `up to ${limits.max_images} photos and ${count(limits.max_body_bytes / 2 ** 20)} MiB per request, and ${count(limits.max_pixels / 1e6)} megapixels per photo`],
    ["Version", `Maeve ${version}, bundle ${digest.slice(0, 12)}`],
  ];
}

function pixels({ image_size: [height, width] }) {
  return `${width} × ${height} pixels`;
}

function place({ name, device }) {
  return `on ${device === "cpu" ? "the CPU" : device} with ${RUNTIMES[name] ?? name}`;
}

/** What is not offered, and so has no card. */
function lacking({ operations, search }) {
  return [
    operations.reconstruct ? "" : "It was exported without a decoder, so hidden patches cannot be reconstructed.",
    operations.classify ? "" : "It was exported without a classifier, so photos get no labels.",
    search ? "" : "It was started without an index, so there is nothing to search; MAEVE_SEARCH_INDEX names one.",
  ].join(" ").trim();
}

function count(number) {
  return number.toLocaleString("en", { maximumFractionDigits: 1 });
}
