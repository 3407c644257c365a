/** Drawing that is as sharp as the screen, and drawn again when the page looks different. */

/** A pen for an emptied canvas: { pen, width, height }, in CSS pixels. */
export function blank(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  canvas.width = Math.round(width * devicePixelRatio);
  canvas.height = Math.round(height * devicePixelRatio);
  const pen = canvas.getContext("2d");
  pen.scale(canvas.width / (width || 1), canvas.height / (height || 1));
  return { pen, width, height };
}

/** Call `draw` whenever the element has another size, and when the colour scheme changes. */
export function whenLooksChange(element, draw) {
  new ResizeObserver(draw).observe(element);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}
