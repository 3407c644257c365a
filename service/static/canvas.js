/** Drawing that is as sharp as the screen. */

/** A pen for an emptied canvas: { pen, width, height }, in CSS pixels. */
export function blank(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  canvas.width = Math.round(width * devicePixelRatio);
  canvas.height = Math.round(height * devicePixelRatio);
  const pen = canvas.getContext("2d");
  pen.scale(canvas.width / (width || 1), canvas.height / (height || 1));
  return { pen, width, height };
}
