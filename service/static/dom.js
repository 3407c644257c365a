/** Small help with the document. */

/** An element with these properties and children. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** A colour of the style sheet, such as "--accent", as the theme has it now: "rgb(36, 86, 199)". */
export function colour(name, element = document.body) {
  const probe = make("span", { hidden: true });
  probe.style.color = `var(${name})`;
  element.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

/** Have screen readers say something that is shown elsewhere, or only seen. */
export function announce(text) {
  document.getElementById("announcements").textContent = text;
}

/** Calls `draw` when what is drawn must be drawn anew: the element has another width, or the theme other colours. */
export function whenLooksChange(element, draw) {
  let width = 0;
  new ResizeObserver(([entry]) => {
    const before = width;
    width = entry.contentRect.width;
    if (before && width && before !== width) draw();
  }).observe(element);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}
