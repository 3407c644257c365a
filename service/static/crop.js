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

/** A canvas with what the network sees of the file, upright and over white; null if the browser cannot read it. */
export async function seenPart(file, preprocess) {
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
  pen.drawImage(bitmap, box.left, box.top, box.width, box.height, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return canvas;
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
