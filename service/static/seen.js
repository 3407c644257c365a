/** The photo as the network gets it: turned upright, scaled, and cut from the centre. */

const known = new WeakMap(); // photo -> ImageBitmap

/**
 * From the service, where its bundle can tell: the original that comes with a reconstruction, the very one that the page's
 * first card asks for. Else by the browser, which knows the proportions but not how close the bundle cuts.
 * Throws an Error if the browser has to and cannot read the photo.
 */
export async function seen({ service, info }, photo, signal) {
  if (!known.has(photo)) known.set(photo, await (info.operations.reconstruct ? fromService(service, photo, signal) : cut(photo, info.model)));
  return known.get(photo);
}

async function fromService(service, photo, signal) {
  const { body } = await service.ask("reconstruct", { photos: [photo], params: { mask_ratio: 0.75, seed: 0 }, signal });
  const bytes = Uint8Array.from(atob(body.images.original), (letter) => letter.charCodeAt(0));
  return createImageBitmap(new Blob([bytes], { type: "image/png" }));
}

async function cut(photo, { image_size: [height, width] }) {
  const whole = await createImageBitmap(photo.file);
  const scale = Math.min(whole.width / width, whole.height / height);
  const [cutWidth, cutHeight] = [Math.round(width * scale), Math.round(height * scale)];
  return createImageBitmap(whole, Math.floor((whole.width - cutWidth) / 2), Math.floor((whole.height - cutHeight) / 2), cutWidth, cutHeight);
}
