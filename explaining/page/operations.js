// Draws every operation: the values of the model by name, with formula, numbers and source.

import { range } from "./arrays.js";
import { byId, element, fact } from "./elements.js";
import { positionOf, state } from "./state.js";
import { count, shortNumber } from "./text.js";

export function buildOperations() {
  const { operations, model } = state.data;
  byId("operations-text").textContent =
    `All ${operations.names.length} values that the model computes, in order, from the ids to ` +
    `the logits, under the names that explain.py --dump gives them. Each has its formula, a few ` +
    `numbers and the lines of gpt2.py that compute it. The numbers are the first ones of the ` +
    `chosen position; where there are heads, of head 0.`;
  const groups = [
    [
      "Embeddings",
      operationsOf(["wte", "wpe", "embeddings"], null).concat(operationsOf(["embeddings"], 0)),
    ],
    ...range(model.n_layer).map((block) => [
      `Block ${block}`,
      range(operations.names.length).filter((k) => operations.blocks[k] === block),
    ]),
    ["Result", operationsOf(["ln_f", "logits"], null)],
  ];
  byId("operation-groups").replaceChildren(
    ...groups.map(([title, places]) => operationGroup(title, places)),
  );
}

// Filled when it is opened: all of them at once would be thousands of elements.
function operationGroup(title, places) {
  const group = element(
    "details",
    { class: "group", "data-places": places.join(" ") },
    element(
      "summary",
      {},
      title,
      element("span", { class: "shape" }, count(places.length, "value")),
    ),
  );
  group.addEventListener("toggle", () => fillGroup(group));
  return group;
}

function fillGroup(group) {
  if (group.childElementCount > 1) return;
  group.append(...group.dataset.places.split(" ").map((k) => operationDetails(Number(k))));
}

// Show an operation, wherever it is hidden.
function openOperation(k, event) {
  event.preventDefault(); // the link itself leads to the section only
  for (const group of byId("operation-groups").children) {
    if (!group.dataset.places.split(" ").includes(String(k))) continue;
    fillGroup(group);
    group.open = true;
  }
  const details = byId("operations").querySelector(
    `[data-name="${state.data.operations.names[k]}"]`,
  );
  details.open = true;
  details.scrollIntoView({ block: "start" });
  details.querySelector("summary").focus({ preventScroll: true });
}

function operationDetails(k) {
  const { names, descriptions, formulas, functions, sources, limits } = state.data.operations;
  const source = state.data.sources[sources[k]];
  const [low, high, mean] = range(3).map((c) => shortNumber(limits.at(k, c)));
  return element(
    "details",
    { class: "operation", "data-name": names[k] },
    element(
      "summary",
      {},
      element("code", {}, names[k]),
      element("span", { class: "line-text" }, descriptions[k]),
      element("span", { class: "shape" }, shapeText(k)),
    ),
    element(
      "div",
      { class: "operation-body" },
      element("p", {}, element("code", { class: "formula" }, formulas[k])),
      element(
        "dl",
        { class: "facts" },
        fact("Smallest", low),
        fact("Largest", high),
        fact("Mean", mean),
      ),
      element("p", { class: "samples mono", "data-operation": k }, samplesText(k)),
      sourceElement(source, functions[k]),
    ),
  );
}

function samplesText(k) {
  const { samples } = state.data.operations;
  const numbers = range(samples.shape[2])
    .map((c) => samples.at(k, state.i, c))
    .filter((x) => !Number.isNaN(x));
  return `position ${positionOf(state.i)}: ${numbers.map(shortNumber).join("  ")} …`;
}

export function showSamples() {
  for (const node of document.querySelectorAll("#operations [data-operation]")) {
    node.textContent = samplesText(Number(node.dataset.operation));
  }
}

function sourceElement({ file, first_line, text }, functionName) {
  const lines = text.replace(/\n$/, "").split("\n");
  const numbered = lines.map((line, k) =>
    element(
      "span",
      {},
      element("span", { class: "line-number" }, String(first_line + k)),
      `${line}\n`,
    ),
  );
  return element(
    "figure",
    { class: "source" },
    element("figcaption", {}, `${file}, line ${first_line}, in ${functionName}`),
    element(
      "pre",
      { tabindex: 0, role: "region", "aria-label": `Source of ${functionName}` },
      element("code", {}, ...numbered),
    ),
  );
}

// The places of the values that have these names without their block.
export function operationsOf(kinds, block) {
  const { names, blocks } = state.data.operations;
  return range(names.length).filter((k) => blocks[k] === block && kinds.includes(kindOf(k)));
}

// "h.3.attn.q" -> "attn.q", "h.3" -> "h"
function kindOf(k) {
  const { names, blocks } = state.data.operations;
  if (blocks[k] === null) return names[k];
  return names[k].split(".").slice(2).join(".") || "h";
}

const shapeText = (k) => `[${state.data.operations.shapes[k].join(", ")}]`;

// For the overview: a value in two lines.
export function operationLine(k) {
  const { names, formulas, descriptions } = state.data.operations;
  return element(
    "li",
    {},
    element(
      "span",
      { class: "line-head" },
      element(
        "a",
        { href: "#operations", onclick: (event) => openOperation(k, event) },
        element("code", {}, names[k]),
      ),
      element("span", { class: "shape" }, shapeText(k)),
    ),
    element("span", { class: "line-text" }, descriptions[k]),
    element("code", { class: "formula" }, formulas[k]),
  );
}
