// Draws the overview: the way from text to the next token, and the chosen part of it.

import { bounded } from "./arrays.js";
import { chooseHead } from "./choices.js";
import { byId, element, tokenElement } from "./elements.js";
import { candidateBars } from "./next.js";
import { operationLine, operationsOf } from "./operations.js";
import { IN_BLOCK, PARTS } from "./parts.js";
import { nSeq, state } from "./state.js";
import { count, percent, quoted, shortened, visible } from "./text.js";

let chosenPart = "attention";

export function buildOverview() {
  const { data } = state;
  const { model } = data;
  const generated = data.n_generated ? `, of which the model wrote ${data.n_generated}` : "";
  byId("summary").textContent =
    `${count(nSeq() + data.first_position + data.n_left_out, "token")}${generated}, ` +
    `seen by a model with ${count(model.n_layer, "block")} of ` +
    `${count(model.n_head, "attention head")} each, and ${count(model.n_embd, "number")} for ` +
    `each token.`;
  byId("shapes").textContent =
    `The brackets show shapes: n_seq = ${data.first_position + nSeq()} positions, ` +
    `n_embd = ${model.n_embd}, n_vocab = ${model.n_vocab}.`;
  showLeftOut();
  const parts = Object.keys(PARTS).filter((name) => !IN_BLOCK.includes(name));
  const items = parts.map((name) => element("li", {}, partButton(name)));
  items.splice(parts.indexOf("embeddings") + 1, 0, blockItem());
  byId("way").replaceChildren(...items);
}

function showLeftOut() {
  const { first_position, n_left_out, model } = state.data;
  const notes = [];
  if (n_left_out) {
    notes.push(
      `The first ${count(n_left_out, "token")} lie outside of the model’s window of ` +
        `${model.n_ctx}: it no longer sees them.`,
    );
  }
  if (first_position) {
    notes.push(
      `The text is longer than what fits on this page: shown are the last ` +
        `${count(nSeq(), "position")}. The ${first_position} before them were read, count in the ` +
        `bits per token and per byte, and are not shown.`,
    );
  }
  byId("left-out").textContent = notes.join(" ");
  byId("left-out").hidden = notes.length === 0;
}

function partButton(name) {
  const part = PARTS[name];
  return element(
    "button",
    { type: "button", class: "part", "data-part": name, onclick: () => choosePart(name) },
    element("span", { class: "part-title" }, part.title),
    element("bdi", { class: "example" }, partExample(name)),
    element("span", { class: "shape" }, withNumbers(part.shape())),
  );
}

// "[n_seq, n_embd]" -> "[23, 192]"
function withNumbers(shape) {
  const { model } = state.data;
  return shape
    .replaceAll("4 · n_embd", 4 * model.n_embd)
    .replaceAll("n_seq", state.data.first_position + nSeq())
    .replaceAll("n_embd", model.n_embd)
    .replaceAll("n_vocab", model.n_vocab);
}

function partExample(name) {
  const { data } = state;
  if (name === "text") return visible(shortened(data.text, 28));
  if (name === "ids") return `${data.ids.slice(0, 5).join(" ")}${nSeq() > 5 ? " …" : ""}`;
  if (name === "attention") return `${data.model.n_head} heads`;
  if (name === "next") {
    const last = nSeq() - 1;
    const p = data.next.probabilities.at(last, 0);
    return `${quoted(data.next.ids.at(last, 0))} ${percent(p)}`;
  }
  return "";
}

function blockItem() {
  const { n_layer } = state.data.model;
  const go = (by) => chooseHead(bounded(state.block + by, 0, n_layer - 1), state.head);
  const step = (label, sign, by) =>
    element("button", { type: "button", "aria-label": label, onclick: () => go(by) }, sign);
  return element(
    "li",
    { class: "block" },
    element(
      "div",
      { class: "block-title", role: "group", "aria-label": "Block" },
      step("Previous block", "‹", -1),
      element("span", { id: "block-number", "aria-live": "polite" }),
      step("Next block", "›", 1),
    ),
    element(
      "ol",
      { class: "way" },
      ...IN_BLOCK.map((name) => element("li", { class: "adds" }, partButton(name))),
    ),
  );
}

function choosePart(name) {
  chosenPart = name;
  showPart();
}

export function showPart() {
  const { n_layer } = state.data.model;
  byId("block-number").textContent = `Block ${state.block} (0 to ${n_layer - 1})`;
  for (const button of document.querySelectorAll("#way .part")) {
    button.setAttribute("aria-pressed", String(button.dataset.part === chosenPart));
  }
  const part = PARTS[chosenPart];
  const section = byId(`${part.section}-title`).textContent;
  const inBlock = IN_BLOCK.includes(chosenPart);
  const rows = operationsOf(part.kinds, inBlock ? state.block : null).map(operationLine);
  byId("part").replaceChildren(
    element("h3", {}, inBlock ? `${part.title} of block ${state.block}` : part.title),
    element("p", {}, part.text),
    ...partDetails(chosenPart),
    ...(rows.length ? [element("ul", { class: "operation-lines" }, ...rows)] : []),
    element("p", {}, element("a", { href: `#${part.section}` }, `See: ${section}`)),
  );
}

// What a part makes of the chosen token, where it is not an operation on vectors.
function partDetails(name) {
  const { data, i } = state;
  const id = data.ids[i];
  if (name === "text") return [element("blockquote", { dir: "auto" }, visible(data.text))];
  if (name === "ids") return [element("p", { class: "mono" }, tokenElement(id), ` → ${id}`)];
  if (name === "next") return [element("ol", { class: "bars" }, ...candidateBars(nSeq() - 1, 5))];
  return [];
}
