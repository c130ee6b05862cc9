// Elements from code. Text only ever becomes a text node: file names and metadata are strangers' words.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes, listeners ("onclick": function) and children (nodes or text). */
export function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

/** The element of the page with this id. */
export function part(id) {
  return document.getElementById(id);
}

/** Set text only where it differs, so that nothing is repainted or read aloud again. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A key as people see it on the keyboard. */
export function key(name) {
  return el("kbd", {}, name);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}
