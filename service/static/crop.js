/** The part of a photo that the network sees, in the photo's own sharpness: cut as bundle/preprocess.py cuts. */

const MOST_PIXELS = 1024; // a side: more than a card shows, and little against a photo of 12 megapixels

/**
 * What is cut from a photo of this size: { left, top, width, height } in its pixels, not rounded.
 * `preprocess`: { resize, crop } of GET /info, each [height, width]: scaled until `resize` is covered, `crop` cut from the
 * middle, where what cannot be halved is left over on the right and below.
 */
export function seenBox(width, height, { resize, crop }) {
  const scale = Math.min(height / resize[0], width / resize[1]); // pixels of the photo for one of the network's
  const start = (side, axis) => (side - resize[axis] * scale) / 2 + Math.floor((resize[axis] - crop[axis]) / 2) * scale;
  return { left: start(width, 1), top: start(height, 0), width: crop[1] * scale, height: crop[0] * scale };
}

/**
 * A canvas with what the network sees of the file, upright, over white, and grey if it knows no colours; null if the browser
 * cannot read the file. `info`: of GET /info.
 */
export async function seenPart(file, { preprocess, model }) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return null; // HEIC and TIFF are for the service alone
  }
  const box = seenBox(bitmap.width, bitmap.height, preprocess);
  const shrink = Math.min(1, MOST_PIXELS / Math.max(box.width, box.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(box.width * shrink));
  canvas.height = Math.max(1, Math.round(box.height * shrink));
  const pen = canvas.getContext("2d");
  pen.fillStyle = "white";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.imageSmoothingQuality = "high";
  if (model.channels === 1) pen.filter = "grayscale(1)";
  pen.drawImage(bitmap, box.left, box.top, box.width, box.height, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return canvas;
}

/**
 * What the network sees of a photo, to be drawn: cut by the browser, which is the sharper picture, or where it cannot read the
 * photo by the service, with a reconstruction; null if neither can. Throws a ServiceError or an AbortError.
 */
export async function seen({ service, info }, photo, signal) {
  const own = await seenPart(photo.file, info);
  if (own || !info.operations.reconstruct) return own;
  const { body } = await service.ask("reconstruct", { photos: [photo], signal });
  const bytes = Uint8Array.from(atob(body.images.original), (letter) => letter.charCodeAt(0));
  return createImageBitmap(new Blob([bytes], { type: "image/png" }));
}

/** A grey picture as a photo of the network's own size. `info`: of GET /info. */
export async function plainPhoto({ preprocess, formats }) {
  const canvas = document.createElement("canvas");
  [canvas.height, canvas.width] = preprocess.crop;
  const pen = canvas.getContext("2d");
  pen.fillStyle = "rgb(128, 128, 128)";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  const type = formats.includes("PNG") ? "image/png" : "image/jpeg";
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, type));
  return { file: blob, name: "grey" };
}
