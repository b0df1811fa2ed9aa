// Elements without markup: strings become text nodes, so nothing that a model writes is ever read as HTML.

/**
 * An element of the page.
 * @param {string} name tag, or tag.class.class
 * @param {object} attributes `onclick` and the like: listeners; true: set; false, null: left out; else: the value
 * @param {...(Node|string|null)} children
 */
export function h(name, attributes = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const element = document.createElement(tag);
  element.classList.add(...classes);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

/** An SVG element. */
export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** One of the drawings in icons.svg. */
export function icon(name) {
  return svg("svg", { class: "icon", "aria-hidden": "true" }, svg("use", { href: `icons.svg#${name}` }));
}

/** A round button that shows an icon and says `label` to those who do not see it. */
export function iconButton(name, label, onclick) {
  return h("button.round", { type: "button", "aria-label": label, title: label, onclick }, icon(name));
}

/** Show another icon and label on an icon button. */
export function setIcon(button, name, label) {
  button.replaceChildren(icon(name));
  button.setAttribute("aria-label", label);
  button.title = label;
}

/** The bytes of a base64 string. */
export function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

/** Seconds as 0:07. */
export function clock(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** How far a sound or a motion is: 0.4 / 2.0 s, or 0:07 / 1:30. */
export function progress(seconds, whole) {
  return whole < 60 ? `${seconds.toFixed(1)} / ${whole.toFixed(1)} s` : `${clock(seconds)} / ${clock(whole)}`;
}

/** Whether the reader asked for little movement. */
export function calm() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}
