// Makes elements: any, and those that several sections have. Text is set as text, never as HTML.

import { tokenText } from "./text.js";

export const byId = (id) => document.getElementById(id);

// element("td", {class: "number", "data-at": 3}, "text", otherElement)
export function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children); // strings become text nodes
  return node;
}

// Isolated from the text around it, whatever direction it is written in.
export const tokenElement = (id) => element("bdi", { class: "token" }, tokenText(id));

// A name and a value, for a list of facts.
export const fact = (name, value) =>
  element("div", {}, element("dt", {}, name), element("dd", {}, value));

// A bar with its label and number. `share`: how much of the width it fills, 0 to 1.
export function bar(label, share, number, attributes = {}) {
  const fill = element("span", { class: "fill" });
  fill.style.inlineSize = `${100 * share}%`;
  return element(
    "li",
    { class: "bar", ...attributes },
    label,
    element("span", { class: "track", "aria-hidden": "true" }, fill),
    element("span", { class: "number" }, number),
  );
}

// A bar beside a number in a table.
export function meter(width) {
  const node = element("span", { class: "meter", "aria-hidden": "true" });
  node.style.inlineSize = `${width}em`;
  return node;
}
