/** The photo as the network gets it: turned upright, scaled, and cut from the centre. */

import { seenPart } from "./crop.js";

/**
 * Cut by the browser, which is the sharper picture, or where it cannot read the photo by the service, with a reconstruction.
 * null if neither can. Throws a ServiceError or an AbortError.
 */
export async function seen({ service, info }, photo, signal) {
  const own = await seenPart(photo.file, info);
  if (own || !info.operations.reconstruct) return own;
  const { body } = await service.ask("reconstruct", { photos: [photo], signal });
  const bytes = Uint8Array.from(atob(body.images.original), (letter) => letter.charCodeAt(0));
  return createImageBitmap(new Blob([bytes], { type: "image/png" }));
}
