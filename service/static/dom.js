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

/** Call `draw` when the element has another width, and when the colour scheme changes, until the element is taken out of the page. */
export function whenLooksChange(element, draw) {
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  let width = 0;
  const observer = new ResizeObserver(([entry]) => {
    if (!element.isConnected) {
      observer.disconnect();
      scheme.removeEventListener("change", draw);
    } else if (entry.contentRect.width !== width) {
      width = entry.contentRect.width;
      requestAnimationFrame(draw); // not at once: what draws may change the element's height, which observers must not
    }
  });
  observer.observe(element);
  scheme.addEventListener("change", draw);
}
