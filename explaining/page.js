"use strict";

// Fills page.html from the data that explaining/page.py has computed, and follows the reader.
//
// A position of the text is counted from 0, as in the model. `i` is its place among those that the
// page shows: position = data.first_position + i. All text is set as text, never as HTML.

const embedded = (id) => JSON.parse(document.getElementById(id).textContent);
const served = embedded("served"); // null, or {token}: the page can ask for new data

// What the page shows, and what the reader has chosen.
const state = { data: null, i: 0, block: 0, head: "mean", part: "attention", lensRow: 0 };

const byId = (id) => document.getElementById(id);

// ---------------------------------------------------------------- data

const NUMBER_TYPES = { float32: Float32Array, int32: Int32Array, uint16: Uint16Array };

// An array from Python. Its numbers are little-endian, as in every browser of today.
class PackedArray {
  constructor({ shape, dtype, base64, scale = 1 }) {
    const binary = atob(base64);
    const bytes = new Uint8Array(binary.length);
    for (let k = 0; k < binary.length; k++) bytes[k] = binary.charCodeAt(k);
    this.numbers = new NUMBER_TYPES[dtype](bytes.buffer);
    this.shape = shape;
    this.scale = scale;
  }

  at(...indices) {
    let place = 0;
    for (let axis = 0; axis < indices.length; axis++) {
      place = place * this.shape[axis] + indices[axis];
    }
    return this.numbers[place] * this.scale;
  }
}

// The data with every packed array in it unpacked.
function unpacked(value) {
  if (value === null || typeof value !== "object") return value;
  if (Array.isArray(value)) return value.map(unpacked);
  if ("base64" in value) return new PackedArray(value);
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, unpacked(item)]));
}

const nSeq = () => state.data.ids.length;
const positionOf = (i) => state.data.first_position + i;
const range = (n) => Array.from({ length: n }, (_, k) => k);

// How much position `query` attends to `key`, by one head, or the mean of all heads of the block.
function attentionWeight(block, head, query, key) {
  if (key > query) return 0;
  const weights = state.data.attention;
  const place = (query * (query + 1)) / 2 + key; // of the triangle, row by row
  if (head !== "mean") return weights.at(block, head, place);
  const nHead = weights.shape[1];
  let sum = 0;
  for (let h = 0; h < nHead; h++) sum += weights.at(block, h, place);
  return sum / nHead;
}

// ---------------------------------------------------------------- text

// Characters that cannot be seen, or that would turn the text around them: controls, formats such
// as right-to-left marks, private and unassigned ones, spaces other than the plain one.
const INVISIBLE =
  /[\p{Cc}\p{Cf}\p{Co}\p{Cn}\p{Cs}\p{Zl}\p{Zp}\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]/u;
const SHOWN_AS = { " ": "·", "\n": "↵", "\r": "␍", "\t": "⇥" };

function visibleCharacter(character) {
  if (character in SHOWN_AS) return SHOWN_AS[character];
  if (!INVISIBLE.test(character)) return character;
  return `[U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}]`;
}

const visible = (text) => Array.from(text, visibleCharacter).join("");

const hexBytes = (hex) => hex.match(/../g)?.join(" ").toUpperCase() ?? "";

// A token as it is shown: its text, or its bytes if those are only part of a character.
function tokenText(id) {
  const token = state.data.tokens[id];
  if (token.bytes === "") return "(unused)";
  const isPart = token.text.includes("\ufffd") && !token.bytes.includes("efbfbd");
  if (isPart) return `‹${hexBytes(token.bytes)}›`;
  const text = visible(token.text);
  return /^\p{M}/u.test(text) ? `◌${text}` : text; // an accent without its letter
}

// For a label: quotes show where the token begins and ends.
const quoted = (id) => `“${tokenText(id)}”`;

const shortened = (text, n) => {
  const characters = Array.from(text);
  return characters.length > n ? `${characters.slice(0, n - 1).join("")}…` : text;
};

function percent(p) {
  if (p >= 0.0995) return `${(100 * p).toFixed(p < 0.99 ? 0 : 1)}%`;
  if (p >= 0.0001) return `${(100 * p).toPrecision(2)}%`;
  return p > 0 ? "<0.01%" : "0%";
}

// A number of any size in about seven characters.
function shortNumber(x) {
  if (Number.isNaN(x)) return "";
  if (x < -1e9) return "masked";
  const size = Math.abs(x);
  if (x === 0) return "0";
  return size >= 1e4 || size < 1e-3 ? x.toExponential(1) : x.toFixed(size < 10 ? 3 : 1);
}

const count = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;

// ---------------------------------------------------------------- elements

// element("td", {class: "number", "data-at": 3}, "text", otherElement)
function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children); // strings become text nodes
  return node;
}

// Isolated from the text around it, whatever direction it is written in.
const tokenElement = (id) => element("bdi", { class: "token" }, tokenText(id));

// A bar with its label and number. `share`: how much of the width it fills, 0 to 1.
function bar(label, share, number, attributes = {}) {
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

// Of a group of elements only one is reached by Tab; arrow keys go from one to the next.
function moveWithArrows(container, steps, move) {
  container.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in steps)) return;
    event.preventDefault();
    move(steps[event.key]);
  });
}

// [down, right]
const GRID_STEPS = {
  ArrowUp: [-1, 0],
  ArrowDown: [1, 0],
  ArrowLeft: [0, -1],
  ArrowRight: [0, 1],
};

// Scroll a region, and only that, so that a node in it can be seen.
function scrollWithin(region, node) {
  const [outer, inner] = [region.getBoundingClientRect(), node.getBoundingClientRect()];
  const isAbove = inner.top < outer.top + 40; // under the heads of a table
  const isLeft = inner.left < outer.left + 110;
  if (isAbove || inner.bottom > outer.bottom) {
    region.scrollTop += inner.top - outer.top - outer.height / 2;
  }
  if (isLeft || inner.right > outer.right) {
    region.scrollLeft += inner.left - outer.left - outer.width / 2;
  }
}

// In each list of tokens that scrolls.
function revealChosen() {
  for (const region of document.querySelectorAll(".scroll")) {
    const node = region.querySelector(".is-chosen, td[aria-selected], tbody tr.marked");
    if (node) scrollWithin(region, node);
  }
}

const bounded = (x, low, high) => Math.min(high, Math.max(low, x));

// ---------------------------------------------------------------- colours

// The scale goes from the page's background to a strong blue: dark on light, light on dark.
let scaleColours = [];

function readColours() {
  const style = getComputedStyle(document.documentElement);
  const stops = ["--scale-0", "--scale-1", "--scale-2"].map((name) => {
    const hex = style.getPropertyValue(name).trim().slice(1);
    return [0, 2, 4].map((k) => parseInt(hex.slice(k, k + 2), 16));
  });
  scaleColours = range(256).map((k) => {
    const [from, to] = k < 128 ? [stops[0], stops[1]] : [stops[1], stops[2]];
    const share = k < 128 ? k / 128 : (k - 128) / 127;
    return from.map((channel, c) => Math.round(channel + share * (to[c] - channel)));
  });
}

// By the square root, so that small weights can be told from none.
const colourOf = (share) => scaleColours[Math.round(255 * Math.sqrt(bounded(share, 0, 1)))];
const css = ([r, g, b]) => `rgb(${r} ${g} ${b})`;

// The colour of text on a colour of the scale: black or white, whichever has more contrast. That is
// decided by the relative luminance (WCAG 2.2).
function inkOn(colour) {
  const [r, g, b] = colour.map((channel) => {
    const c = channel / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000000" : "#ffffff";
}

// ---------------------------------------------------------------- choosing a token

// Hovering marks a token everywhere; choosing it (a click, a tap, focus, arrow keys) keeps it, and
// the numbers on the page become those of its position.
function choose(i) {
  const chosen = bounded(i, 0, nSeq() - 1);
  if (chosen === state.i) return;
  state.i = chosen;
  showPosition();
}

function showPosition() {
  showChosen();
  showToken();
  showCandidates();
  showPart();
  showAttention();
  showLensCell();
  showStream();
  showSamples();
  mark(state.i); // what was just made anew
  revealChosen();
}

function mark(i) {
  for (const node of document.querySelectorAll(".marked")) node.classList.remove("marked");
  const position = positionOf(i);
  const selector = `[data-at="${position}"], #tokens [data-position="${position}"]`;
  for (const node of document.querySelectorAll(selector)) node.classList.add("marked");
  for (const heatmap of Object.values(heatmaps)) heatmap.markPosition(i);
}

// Whatever belongs to a position carries it as data-position or data-at.
function positionUnder(target) {
  const node = target.closest?.("[data-at], [data-position]");
  if (!node) return null;
  return Number(node.dataset.at ?? node.dataset.position) - state.data.first_position;
}

function showChosen() {
  const i = state.i;
  byId("chosen-token").replaceChildren(
    element("span", { class: "where" }, `${positionOf(i)}`),
    tokenElement(state.data.ids[i]),
  );
  byId("previous-token").disabled = i === 0;
  byId("next-token").disabled = i === nSeq() - 1;
}

// ---------------------------------------------------------------- overview

// The parts of the way: what they are called, what they compute, and where more about them stands.
// `kinds`: the values that belong to a part, by their names without the block.
const PARTS = {
  text: {
    title: "Text",
    shape: () => `${count(new TextEncoder().encode(state.data.text).length, "byte")}`,
    text: "A string, in UTF-8.",
    kinds: [],
    section: "tokens",
  },
  ids: {
    title: "Token ids",
    shape: () => "[n_seq]",
    text:
      "The tokenizer cuts the text into tokens of its vocabulary: frequent words are one token, " +
      "rare ones several. From here on the text is a list of numbers.",
    kinds: [],
    section: "tokens",
  },
  embeddings: {
    title: "Embeddings",
    shape: () => "[n_seq, n_embd]",
    text:
      "A vector for the token, looked up by its id, plus a vector for its position. " +
      "The sum enters the residual stream.",
    kinds: ["wte", "wpe", "embeddings"],
    section: "residual",
  },
  attention: {
    title: "Attention",
    shape: () => "reads and adds [n_seq, n_embd]",
    text:
      "Each position has a query, a key and a value. Its query is compared with the keys of " +
      "all positions up to its own: the better the match, the more of that position’s value " +
      "it gets. The result is added to the stream. Nowhere else do positions meet.",
    kinds: [
      "ln_1",
      "attn.c_attn",
      "attn.q",
      "attn.k",
      "attn.v",
      "attn.scores",
      "attn.weights",
      "attn.heads",
      "attn.c_proj",
      "residual_after_attn",
    ],
    section: "attention",
  },
  feedForward: {
    title: "Feed-forward",
    shape: () => "widens to 4 · n_embd, adds [n_seq, n_embd]",
    text:
      "Each position by itself: its vector is made four times as wide, passes an activation " +
      "function, and is made narrow again. The result is added to the stream.",
    kinds: ["ln_2", "mlp.c_fc", "mlp.gelu", "mlp.c_proj", "h"],
    section: "lens",
  },
  norm: {
    title: "Last layer norm",
    shape: () => "[n_seq, n_embd]",
    text: "Each vector is scaled to mean 0 and variance 1, then multiplied by g, and b is added.",
    kinds: ["ln_f"],
    section: "lens",
  },
  logits: {
    title: "Logits",
    shape: () => "[n_seq, n_vocab]",
    text:
      "How well each vector matches the embedding of each token of the vocabulary. " +
      "The softmax turns these scores into probabilities.",
    kinds: ["logits"],
    section: "next",
  },
  next: {
    title: "Next token",
    shape: () => "one id",
    text:
      "One token is chosen by its probability and appended to the text. For the token after it " +
      "all of this is done again.",
    kinds: [],
    section: "next",
  },
};
const IN_BLOCK = ["attention", "feedForward"];

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

function buildOverview() {
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

function blockItem() {
  const { n_layer } = state.data.model;
  const step = (by) => chooseHead(bounded(state.block + by, 0, n_layer - 1), state.head);
  return element(
    "li",
    { class: "block" },
    element(
      "div",
      { class: "block-title", role: "group", "aria-label": "Block" },
      element(
        "button",
        { type: "button", "aria-label": "Previous block", onclick: () => step(-1) },
        "‹",
      ),
      element("span", { id: "block-number", "aria-live": "polite" }),
      element(
        "button",
        { type: "button", "aria-label": "Next block", onclick: () => step(1) },
        "›",
      ),
    ),
    element(
      "ol",
      { class: "way" },
      ...IN_BLOCK.map((name) => element("li", { class: "adds" }, partButton(name))),
    ),
  );
}

function choosePart(name) {
  state.part = name;
  showPart();
}

function showPart() {
  const { n_layer } = state.data.model;
  byId("block-number").textContent = `Block ${state.block} (0 to ${n_layer - 1})`;
  for (const button of document.querySelectorAll("#way .part")) {
    button.setAttribute("aria-pressed", String(button.dataset.part === state.part));
  }
  const part = PARTS[state.part];
  const inBlock = IN_BLOCK.includes(state.part);
  const rows = operationsOf(part.kinds, inBlock ? state.block : null).map(operationLine);
  byId("part").replaceChildren(
    element("h3", {}, inBlock ? `${part.title} of block ${state.block}` : part.title),
    element("p", {}, part.text),
    ...partDetails(state.part),
    ...(rows.length ? [element("ul", { class: "operation-lines" }, ...rows)] : []),
    element(
      "p",
      {},
      element("a", { href: `#${part.section}` }, `See: ${byId(`${part.section}-title`).textContent}`),
    ),
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

// ---------------------------------------------------------------- tokens

function buildTokens() {
  const { data } = state;
  const isGenerated = (i) => i >= nSeq() - data.n_generated;
  const label = (id, i) =>
    `Position ${positionOf(i)}: ${quoted(id)}${isGenerated(i) ? ", generated" : ""}`;
  const buttons = data.ids.map((id, i) =>
    element(
      "button",
      {
        type: "button",
        class: isGenerated(i) ? "token-button generated" : "token-button",
        "data-position": positionOf(i),
        tabindex: -1,
        "aria-label": label(id, i),
        onfocus: () => choose(i), // clicks are followed everywhere: see `followReader`
      },
      tokenElement(id),
    ),
  );
  byId("token-list").replaceChildren(...buttons);
}

function tokenButton(i) {
  return byId("token-list").children[i];
}

function showToken() {
  const { data, i } = state;
  const id = data.ids[i];
  const token = data.tokens[id];
  for (const button of byId("token-list").children) {
    const isChosen = button === tokenButton(i);
    button.tabIndex = isChosen ? 0 : -1;
    button.setAttribute("aria-pressed", String(isChosen));
  }
  byId("token").replaceChildren(
    element("h3", {}, `Position ${positionOf(i)}: `, tokenElement(id)),
    element(
      "dl",
      { class: "facts" },
      ...fact("Id", String(id)),
      ...fact("Bytes", hexBytes(token.bytes)),
      ...fact("Comes from", i >= nSeq() - data.n_generated ? "the model" : "the prompt"),
    ),
    ...mergeTable(data.merges[id], token),
  );
}

const fact = (name, value) => [
  element("div", {}, element("dt", {}, name), element("dd", {}, value)),
];

// The merges that made a token, replayed from its bytes: a row for each step.
function mergeTable({ symbols, steps }) {
  const current = [...symbols];
  const rows = [mergeRow("bytes", current, -1)];
  for (const [index, rank] of steps) {
    current.splice(index, 2, current[index] + current[index + 1]);
    rows.push(mergeRow(`merge ${rank}`, current, index));
  }
  if (symbols.length === 1)
    return [element("p", { class: "note" }, "A single byte: nothing was merged.")];
  if (current.length > 1) {
    return [
      element(
        "p",
        { class: "note" },
        "No merges lead to this token: it was added to the vocabulary whole.",
      ),
    ];
  }
  return [
    element(
      "p",
      { class: "hint" },
      "How merges build it from its bytes. A merge that was learned earlier has a lower number " +
        "and goes first. In the vocabulary Ġ stands for a space, Ċ for a line end.",
    ),
    element(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": "Merges" },
      element("table", { class: "merges" }, element("tbody", {}, ...rows)),
    ),
  ];
}

function mergeRow(name, symbols, merged) {
  const chips = symbols.map((symbol, k) =>
    element("bdi", { class: k === merged ? "symbol merged" : "symbol" }, visible(symbol)),
  );
  return element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, ...chips));
}

// ---------------------------------------------------------------- what comes next

const probabilityOfActual = (i) => 2 ** -state.data.next.surprises.at(i);

function buildNext() {
  const { next, ids } = state.data;
  const decimals = (x) => (x === null ? "–" : x.toFixed(2));
  byId("totals").replaceChildren(
    ...fact("Bits per token", decimals(next.bits_per_token)),
    ...fact("Bits per byte", decimals(next.bits_per_byte)),
    ...fact("Tokens predicted", String(next.n_predicted)),
  );
  const largest = Math.max(1, ...next.surprises.numbers);
  const rows = ids.slice(1).map((id, k) => surpriseRow(id, k, largest));
  byId("surprises").tBodies[0].replaceChildren(...rows);
}

// The token at place k + 1, which the model has predicted at place k.
function surpriseRow(id, k, largest) {
  const { next } = state.data;
  const surprise = next.surprises.at(k);
  const meter = element("span", { class: "meter", "aria-hidden": "true" });
  meter.style.inlineSize = `${(4 * surprise) / largest}em`;
  return element(
    "tr",
    { "data-at": positionOf(k + 1) },
    element("td", {}, String(positionOf(k + 1))),
    element("th", { scope: "row" }, tokenElement(id)),
    element("td", { "data-probability": probabilityOfActual(k) }, percent(probabilityOfActual(k))),
    element("td", { "data-rank": next.ranks.at(k) }, String(next.ranks.at(k))),
    element("td", { "data-surprise": surprise }, meter, surprise.toFixed(2)),
  );
}

function candidateBars(i, n) {
  const { next, ids } = state.data;
  const nShown = Math.min(n, next.ids.shape[1]);
  return range(nShown).map((k) => {
    const id = next.ids.at(i, k);
    const p = next.probabilities.at(i, k);
    const isActual = id === ids[i + 1];
    return bar(tokenElement(id), p, percent(p), {
      class: isActual ? "bar actual" : "bar",
      "data-candidate": id,
      "data-probability": p,
    });
  });
}

function showCandidates() {
  const { data, i } = state;
  byId("candidates-title").replaceChildren(
    `After position ${positionOf(i)}, `,
    tokenElement(data.ids[i]),
  );
  byId("candidates").replaceChildren(...candidateBars(i, Infinity));
  if (i === nSeq() - 1) {
    byId("actual").textContent = "The text ends here.";
    return;
  }
  const surprise = data.next.surprises.at(i);
  byId("actual").replaceChildren(
    element("span", { class: "arrow", "aria-hidden": "true" }, "← "),
    "The text goes on with ",
    tokenElement(data.ids[i + 1]),
    `: rank ${data.next.ranks.at(i)}, probability ${percent(probabilityOfActual(i))}, `,
    `surprise ${surprise.toFixed(2)} bits.`,
  );
}

// ---------------------------------------------------------------- sampling

// The ids of all logits, best first; of equal ones the lower id.
function bestFirst(logits) {
  return Int32Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a] || a - b);
}

// The probabilities with which `sample` in gpt2.py draws each of `ids` (best first): temperature,
// then top-k, then top-p, and what is kept is scaled to sum to 1. Sums are rounded to float32 as
// there: once they have reached 1, nothing more is below a top-p of 1.
function samplingProbabilities(logits, ids, temperature, topK, topP) {
  const probabilities = new Float64Array(ids.length);
  if (temperature === 0) {
    probabilities[0] = 1;
    return probabilities;
  }
  const n = Math.min(topK || ids.length, ids.length);
  const best = logits[ids[0]];
  let sum = 0;
  for (let k = 0; k < n; k++) {
    probabilities[k] = Math.exp((logits[ids[k]] - best) / temperature);
    sum += probabilities[k];
  }
  let [cumulative, kept] = [0, 0];
  for (let k = 0; k < n; k++) {
    const p = Math.fround(probabilities[k] / Math.fround(sum));
    cumulative = Math.fround(cumulative + p);
    const before = Math.fround(cumulative - p); // the sum over all better ones
    probabilities[k] = k === 0 || before < topP ? p : 0;
    kept += probabilities[k];
  }
  return probabilities.map((p) => p / kept);
}

const SLIDERS = { temperature: "temperature", "top-k": "top_k", "top-p": "top_p" };

function buildSampling() {
  const { sampling, logits } = state.data;
  state.bestFirst = bestFirst(logits.numbers);
  byId("top-k").max = Math.max(100, sampling.top_k);
  byId("temperature").max = Math.max(2, sampling.temperature);
  // Greedy choice would show a single bar, so a page without sampling begins as trained.
  const start = sampling.temperature ? sampling : { temperature: 1, top_k: 0, top_p: 1 };
  for (const [id, name] of Object.entries(SLIDERS)) {
    byId(id).step = id === "top-k" ? 1 : 0.01;
    byId(id).value = start[name];
  }
  showSampling();
}

function showSampling() {
  const { data } = state;
  const [temperature, topK, topP] = Object.keys(SLIDERS).map((id) => Number(byId(id).value));
  byId("temperature-value").textContent = temperature.toFixed(2);
  byId("top-k-value").textContent = topK === 0 ? "all" : topK;
  byId("top-p-value").textContent = topP.toFixed(2);
  const ids = state.bestFirst;
  const probabilities = samplingProbabilities(data.logits.numbers, ids, temperature, topK, topP);
  const nKept = probabilities.reduce((n, p) => n + (p > 0), 0);
  byId("kept").textContent = `${count(nKept, "token")} can be drawn.`;
  const nBars = Math.min(data.n_sliders, ids.length);
  const bars = range(nBars).map((k) => {
    const attributes = { "data-token-id": ids[k], "data-probability": probabilities[k] };
    if (probabilities[k] === 0) attributes.class = "bar dropped";
    return bar(continuation(ids[k]), probabilities[k], percent(probabilities[k]), attributes);
  });
  byId("sampling").replaceChildren(...bars);
}

// ---------------------------------------------------------------- heatmaps

const heatmaps = {};

// A grid of numbers as colours, with a marked row and column, by pointer and arrow keys.
//
// label; nRows, nColumns; rowLabel(r), columnLabel(c): texts, and the room for them, in pixels:
// rowLabelWidth, columnLabelHeight (0: no labels); share(r, c): 0 to 1, or null for no cell;
// describe(r, c): a sentence; onchoose({row, column}): a cell was chosen; smallest, largest: the
// width of a cell, in pixels; isSquare: cells are as high as they are wide. Columns are positions
// of the text; positionIsRow: so are the rows.
class Heatmap {
  constructor(container, options) {
    Object.assign(this, options);
    this.container = container;
    this.canvas = element("canvas", { "aria-hidden": "true" });
    this.cells = element("canvas"); // not shown: all but the marks, so that these can move fast
    // Read aloud only while one moves through this matrix: the others change with it.
    this.readout = element("p", { class: "readout", "aria-live": "off" });
    this.frame = element(
      "div",
      {
        class: "heatmap",
        tabindex: 0,
        role: "application",
        "aria-roledescription": "matrix",
        "aria-label": `${options.label}. Arrow keys move through it.`,
        onfocus: () => this.readout.setAttribute("aria-live", "polite"),
        onblur: () => this.readout.setAttribute("aria-live", "off"),
      },
      this.canvas,
    );
    container.replaceChildren(this.frame, this.readout);
    this.cursor = { row: options.nRows - 1, column: 0 };
    this.marked = 0;
    this.follow();
    this.layOut();
  }

  follow() {
    const cellAt = (event) => {
      const box = this.canvas.getBoundingClientRect();
      const row = Math.floor((event.clientY - box.top - this.top) / this.cellHeight);
      const column = Math.floor((event.clientX - box.left - this.left) / this.cellWidth);
      const isInside = row >= 0 && row < this.nRows && column >= 0 && column < this.nColumns;
      return isInside ? { row, column } : null;
    };
    this.frame.addEventListener("pointermove", (event) => {
      const cell = cellAt(event);
      if (cell) this.moveTo(cell, false);
    });
    this.frame.addEventListener("pointerleave", () => mark(state.i));
    this.frame.addEventListener("click", (event) => {
      const cell = cellAt(event);
      if (cell) this.moveTo(cell, true);
    });
    moveWithArrows(this.frame, GRID_STEPS, ([down, right]) => {
      const row = bounded(this.cursor.row + down, 0, this.nRows - 1);
      const column = bounded(this.cursor.column + right, 0, this.nColumns - 1);
      this.moveTo({ row, column }, true);
      this.reveal();
    });
  }

  moveTo(cell, isChosen) {
    this.cursor = cell;
    const i = this.positionIsRow ? cell.row : cell.column;
    if (isChosen) this.onchoose(cell);
    else mark(i);
    this.readout.textContent = this.describe(cell.row, cell.column);
    this.draw();
  }

  markPosition(i) {
    this.marked = i;
    if (this.positionIsRow) this.cursor.row = i;
    else this.cursor.column = i;
    this.readout.textContent = this.describe(this.cursor.row, this.cursor.column);
    this.draw();
  }

  // Scroll the cursor's cell into view.
  reveal() {
    const x = this.left + this.cursor.column * this.cellWidth;
    const y = this.top + this.cursor.row * this.cellHeight;
    const { frame } = this;
    frame.scrollLeft = bounded(
      frame.scrollLeft,
      x + this.cellWidth - frame.clientWidth,
      x - this.left,
    );
    frame.scrollTop = bounded(
      frame.scrollTop,
      y + this.cellHeight - frame.clientHeight,
      y - this.top,
    );
  }

  // The size of the cells: as wide as there is room for, but not too small to be hit.
  layOut() {
    this.left = this.rowLabelWidth;
    this.top = this.columnLabelHeight;
    const room = this.container.clientWidth - this.left - 2;
    this.cellWidth = bounded(Math.floor(room / this.nColumns), this.smallest, this.largest);
    this.cellHeight = this.isSquare ? this.cellWidth : 16;
    const width = this.left + this.nColumns * this.cellWidth + 2;
    const height = this.top + this.nRows * this.cellHeight + 2;
    this.ratio = window.devicePixelRatio || 1;
    for (const canvas of [this.canvas, this.cells]) {
      canvas.width = Math.round(width * this.ratio);
      canvas.height = Math.round(height * this.ratio);
    }
    this.canvas.style.inlineSize = `${width}px`;
    this.canvas.style.blockSize = `${height}px`;
    this.paint();
  }

  // Draw everything anew: other numbers, colours or sizes.
  paint() {
    const style = getComputedStyle(document.documentElement);
    this.colours = Object.fromEntries(
      ["ink", "muted", "accent"].map((name) => [name, style.getPropertyValue(`--${name}`)]),
    );
    const context = this.cells.getContext("2d");
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.clearRect(0, 0, this.cells.width, this.cells.height);
    this.paintCells(context);
    for (let row = 0; row < this.nRows; row++) this.drawRowLabel(context, row, "muted");
    for (let column = 0; column < this.nColumns; column++)
      this.drawColumnLabel(context, column, "muted");
    this.draw();
  }

  paintCells(context) {
    const gap = this.cellWidth > 8 ? 1 : 0;
    for (let row = 0; row < this.nRows; row++) {
      for (let column = 0; column < this.nColumns; column++) {
        const share = this.share(row, column);
        if (share === null) continue;
        context.fillStyle = css(colourOf(share));
        context.fillRect(
          this.left + column * this.cellWidth,
          this.top + row * this.cellHeight,
          this.cellWidth - gap,
          this.cellHeight - gap,
        );
      }
    }
  }

  // Draw what was painted, and the marks on it.
  draw() {
    const context = this.canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.drawImage(this.cells, 0, 0);
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    if (this.positionIsRow) this.drawRowLabel(context, this.marked, "accent");
    this.drawColumnLabel(context, this.marked, "accent");
    this.drawMarks(context);
  }

  setFont(context, colour) {
    const size = bounded(this.cellHeight - 2, 9, 12);
    context.font = `${size}px ui-monospace, Menlo, Consolas, monospace`;
    context.textBaseline = "middle";
    context.direction = "ltr";
    context.fillStyle = this.colours[colour];
  }

  drawRowLabel(context, row, colour) {
    this.setFont(context, colour);
    context.textAlign = "right";
    context.fillText(this.rowLabel(row), this.left - 6, this.top + (row + 0.5) * this.cellHeight);
  }

  drawColumnLabel(context, column, colour) {
    if (this.top === 0) return; // no room for labels
    context.save();
    this.setFont(context, colour);
    context.textAlign = "left";
    context.translate(this.left + (column + 0.5) * this.cellWidth, this.top - 6);
    context.rotate(-Math.PI / 2);
    context.fillText(this.columnLabel(column), 0, 0);
    context.restore();
  }

  drawMarks(context) {
    const { cellWidth: w, cellHeight: h, left, top } = this;
    context.strokeStyle = this.colours.accent;
    context.lineWidth = 1.5;
    const box = (row, column, rows, columns) =>
      context.strokeRect(left + column * w - 0.5, top + row * h - 0.5, columns * w, rows * h);
    box(0, this.marked, this.nRows, 1);
    if (this.positionIsRow) box(this.marked, 0, 1, this.nColumns);
    context.lineWidth = 2.5;
    box(this.cursor.row, this.cursor.column, 1, 1);
  }
}

const tokenAxisLabel = (i) => shortened(tokenText(state.data.ids[i]), 9);

// ---------------------------------------------------------------- attention

function buildAttention() {
  const { n_layer, n_head } = state.data.model;
  const blocks = range(n_layer).map((k) => element("option", { value: k }, String(k)));
  const heads = range(n_head).map((k) => element("option", { value: k }, String(k)));
  byId("block").replaceChildren(...blocks);
  byId("head").replaceChildren(element("option", { value: "mean" }, "mean"), ...heads);
  state.block = bounded(state.block, 0, n_layer - 1);
  if (state.head !== "mean") state.head = bounded(state.head, 0, n_head - 1);
  heatmaps.attention = new Heatmap(byId("matrix"), {
    label: "Attention matrix: rows look at columns",
    nRows: nSeq(),
    nColumns: nSeq(),
    positionIsRow: true,
    isSquare: true,
    smallest: 12,
    largest: 34,
    rowLabelWidth: 72,
    columnLabelHeight: 72,
    rowLabel: tokenAxisLabel,
    columnLabel: tokenAxisLabel,
    share: (row, column) =>
      column > row ? null : attentionWeight(state.block, state.head, row, column),
    describe: describeWeight,
    onchoose: ({ row }) => choose(row),
  });
  buildThumbnails();
}

function describeWeight(query, key) {
  const { ids } = state.data;
  const from = `Position ${positionOf(query)} ${quoted(ids[query])}`;
  const to = `position ${positionOf(key)} ${quoted(ids[key])}`;
  if (key > query) return `${from} cannot see ${to}, which comes later.`;
  const weight = attentionWeight(state.block, state.head, query, key);
  return `${from} looks at ${to} with weight ${weight.toFixed(3)}.`;
}

// All heads as small pictures, a button each.
function buildThumbnails() {
  const { n_layer, n_head } = state.data.model;
  const grid = byId("thumbnails");
  grid.style.setProperty("--n-head", n_head);
  const rows = range(n_layer).map((block) => [
    element("span", { class: "thumbnail-block" }, String(block)),
    ...range(n_head).map((head) => thumbnail(block, head)),
  ]);
  grid.replaceChildren(...rows.flat());
  drawThumbnails();
}

function thumbnail(block, head) {
  return element(
    "button",
    {
      type: "button",
      tabindex: -1,
      "data-block": block,
      "data-head": head,
      "aria-label": `Block ${block}, head ${head}`,
      title: `Block ${block}, head ${head}`,
      onclick: () => chooseHead(block, head),
    },
    element("canvas", { width: nSeq(), height: nSeq() }),
  );
}

// For the mean of all heads: the first one.
function thumbnailButton(block, head) {
  const number = head === "mean" ? 0 : head;
  return byId("thumbnails").querySelector(`[data-block="${block}"][data-head="${number}"]`);
}

function drawThumbnails() {
  const { numbers, scale } = state.data.attention;
  const n = nSeq();
  let place = 0; // the triangles of all heads of all blocks follow each other
  for (const canvas of document.querySelectorAll("#thumbnails canvas")) {
    const context = canvas.getContext("2d");
    const image = context.createImageData(n, n);
    for (let query = 0; query < n; query++) {
      for (let key = 0; key <= query; key++) {
        const [r, g, b] = colourOf(numbers[place++] * scale);
        image.data.set([r, g, b, 255], 4 * (query * n + key));
      }
    }
    context.putImageData(image, 0, 0);
  }
}

function drawLegend() {
  const context = byId("legend").getContext("2d");
  for (let x = 0; x < 128; x++) {
    context.fillStyle = css(colourOf(x / 127));
    context.fillRect(x, 0, 1, 1);
  }
}

function chooseHead(block, head) {
  state.block = block;
  state.head = head;
  showPart();
  heatmaps.attention.paint();
  heatmaps.attention.markPosition(state.i);
  showAttention();
}

function showAttention() {
  const { block, head, i } = state;
  byId("block").value = block;
  byId("head").value = head;
  for (const button of document.querySelectorAll("#thumbnails button")) {
    const isChosen =
      Number(button.dataset.block) === block &&
      (head === "mean" || Number(button.dataset.head) === head);
    button.setAttribute("aria-pressed", String(isChosen));
    button.tabIndex = button === thumbnailButton(block, head) ? 0 : -1;
  }
  const title = () => [
    `What position ${positionOf(i)}, `,
    tokenElement(state.data.ids[i]),
    ", looks at",
  ];
  byId("lines-title").replaceChildren(...title());
  byId("attention-row-title").replaceChildren(...title(), ": the numbers");
  showAttentionRow();
  showLines();
}

function showAttentionRow() {
  const { data, i, block, head } = state;
  const weights = range(i + 1).map((key) => attentionWeight(block, head, i, key));
  const rows = weights.map((weight, key) =>
    attentionRow(String(positionOf(key)), tokenElement(data.ids[key]), weight, {
      "data-at": positionOf(key),
      "data-weight": weight,
    }),
  );
  if (data.first_position) {
    const rest = Math.max(0, 1 - weights.reduce((sum, weight) => sum + weight, 0));
    rows.unshift(attentionRow(`0–${data.first_position - 1}`, "(not shown)", rest, {}));
  }
  byId("attention-row").tBodies[0].replaceChildren(...rows);
}

function attentionRow(position, token, weight, attributes) {
  const meter = element("span", { class: "meter", "aria-hidden": "true" });
  meter.style.inlineSize = `${6 * weight}em`;
  return element(
    "tr",
    attributes,
    element("td", {}, position),
    element("th", { scope: "row" }, token),
    element("td", {}, meter, weight.toFixed(4)),
  );
}

const LINE_HEIGHT = 22; // of a token beside the lines, as in page.css
const LINES_WIDTH = 120;

// The tokens twice, side by side: from the chosen one on the left to those it looks at.
function showLines() {
  const { data, i, block, head } = state;
  const column = (name) =>
    element(
      "ol",
      { class: name },
      ...data.ids.map((id, k) =>
        element(
          "li",
          { "data-at": positionOf(k), class: k === i && name === "from" ? "is-chosen" : "" },
          tokenElement(id),
        ),
      ),
    );
  const y = (k) => (k + 0.5) * LINE_HEIGHT;
  const half = LINES_WIDTH / 2;
  const lines = range(i + 1).map((key) => {
    const weight = attentionWeight(block, head, i, key);
    return svg("path", {
      d: `M0 ${y(i)} C${half} ${y(i)} ${half} ${y(key)} ${LINES_WIDTH} ${y(key)}`,
      class: "line",
      "stroke-width": (0.5 + 5 * weight).toFixed(2),
      opacity: Math.sqrt(weight).toFixed(3),
    });
  });
  const height = nSeq() * LINE_HEIGHT;
  const drawing = svg(
    "svg",
    { width: LINES_WIDTH, height, viewBox: `0 0 ${LINES_WIDTH} ${height}`, "aria-hidden": "true" },
    ...lines,
  );
  byId("lines").replaceChildren(column("from"), drawing, column("to"));
}

// ---------------------------------------------------------------- logit lens

// "h.3.residual_after_attn" -> "attention 3"
function lensRowLabel(name) {
  const [, block, after] = name.split(".");
  if (block === undefined) return name;
  return `${after ? "attention" : "feed-forward"} ${block}`;
}

function buildLens() {
  const { lens, ids } = state.data;
  state.lensRow = lens.names.length - 1;
  const heads = ids.map((id, i) =>
    element("th", { scope: "col", "data-at": positionOf(i) }, tokenElement(id)),
  );
  const head = element(
    "thead",
    {},
    element("tr", {}, element("td", { class: "corner" }, "after"), ...heads),
  );
  const rows = lens.names.map((name, row) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, lensRowLabel(name)),
      ...ids.map((_, i) => lensCell(row, i)),
    ),
  );
  const table = byId("lens-table");
  table.replaceChildren(head, element("tbody", {}, ...rows));
  colourLens();
}

function lensCell(row, i) {
  const { lens } = state.data;
  return element(
    "td",
    {
      "data-at": positionOf(i),
      "data-row": row,
      tabindex: -1,
      "data-probability": lens.probabilities.at(row, i, 0),
      "data-id": lens.ids.at(row, i, 0),
    },
    tokenElement(lens.ids.at(row, i, 0)),
  );
}

function colourLens() {
  for (const cell of byId("lens-table").querySelectorAll("td[data-row]")) {
    const colour = colourOf(Number(cell.dataset.probability));
    cell.style.background = css(colour);
    cell.style.color = inkOn(colour);
  }
}

const cellOfLens = (row, i) => byId("lens-table").tBodies[0].rows[row].cells[i + 1];

function chooseLensCell(row, i, takesFocus) {
  state.lensRow = bounded(row, 0, state.data.lens.names.length - 1);
  choose(i);
  showLensCell();
  if (takesFocus) cellOfLens(state.lensRow, state.i).focus();
}

function showLensCell() {
  const { data, i, lensRow } = state;
  for (const cell of byId("lens-table").querySelectorAll("td[tabindex='0']")) {
    cell.tabIndex = -1;
    cell.removeAttribute("aria-selected");
  }
  const cell = cellOfLens(lensRow, i);
  cell.tabIndex = 0;
  cell.setAttribute("aria-selected", "true");
  const label = lensRowLabel(data.lens.names[lensRow]);
  const where = lensRow === 0 ? "the embeddings" : label.replace(" ", " of block ");
  const bars = range(data.lens.ids.shape[2]).map((k) => {
    const p = data.lens.probabilities.at(lensRow, i, k);
    return bar(tokenElement(data.lens.ids.at(lensRow, i, k)), p, percent(p), {
      "data-probability": p,
    });
  });
  byId("lens-cell").replaceChildren(
    element("h3", {}, `After ${where}, at position ${positionOf(i)} `, tokenElement(data.ids[i])),
    element("ol", { class: "bars" }, ...bars),
  );
}

// ---------------------------------------------------------------- residual stream

function buildResidual() {
  const { residual, model } = state.data;
  const sizeMap = (array, firstLabel, nRows, name) => {
    const logs = array.numbers.map((x) => Math.log(Math.max(x, 1e-9)));
    const low = Math.min(...logs);
    const high = Math.max(...logs);
    return {
      label: `${name} by block and position`,
      nRows,
      nColumns: nSeq(),
      positionIsRow: false,
      isSquare: false,
      smallest: 4,
      largest: 24,
      rowLabelWidth: 28,
      columnLabelHeight: 0,
      rowLabel: (row) => blockLabel(row + firstLabel),
      columnLabel: tokenAxisLabel,
      // Lengths differ by factors, so their logarithms are shown; squared, since `colourOf` takes
      // the root.
      share: (row, column) =>
        ((Math.log(Math.max(array.at(row, column), 1e-9)) - low) / (high - low || 1)) ** 2,
      describe: (row, column) => {
        const block = row + firstLabel < 0 ? "Embeddings" : `Block ${row + firstLabel}`;
        const token = quoted(state.data.ids[column]);
        const size = array.at(row, column).toFixed(2);
        return `${block}, position ${positionOf(column)} ${token}: ${size}`;
      },
      onchoose: ({ column }) => choose(column),
    };
  };
  const n = model.n_layer;
  heatmaps.attentionSizes = new Heatmap(
    byId("attention-sizes"),
    sizeMap(residual.attention, 0, n, "What attention adds"),
  );
  heatmaps.feedForwardSizes = new Heatmap(
    byId("feed-forward-sizes"),
    sizeMap(residual.feed_forward, 0, n, "What feed-forward adds"),
  );
  heatmaps.streamSizes = new Heatmap(
    byId("stream-sizes"),
    sizeMap(residual.sizes, -1, n + 1, "The stream"),
  );
}

const CHART = { height: 240, left: 48, right: 12, top: 12, bottom: 28 };

function showStream() {
  const { data, i } = state;
  byId("stream-title").replaceChildren(
    `At position ${positionOf(i)}, `,
    tokenElement(data.ids[i]),
    ", block by block",
  );
  byId("stream").replaceChildren(streamLegend(), streamChart());
  byId("stream-table").tBodies[0].replaceChildren(...streamRows());
}

function streamRows() {
  const { residual, model } = state.data;
  const { i } = state;
  const cell = (name, x) => element("td", { [`data-${name}`]: x }, x === null ? "–" : x.toFixed(2));
  const row = (label, attention, feedForward, size) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, label),
      cell("attention", attention),
      cell("feed-forward", feedForward),
      cell("size", size),
    );
  return [
    row("embeddings", null, null, residual.sizes.at(0, i)),
    ...range(model.n_layer).map((block) =>
      row(
        String(block),
        residual.attention.at(block, i),
        residual.feed_forward.at(block, i),
        residual.sizes.at(block + 1, i),
      ),
    ),
  ];
}

function streamLegend() {
  const key = (name, text) => element("span", { class: `key ${name}` }, text);
  return element(
    "p",
    { class: "keys" },
    key("attention", "attention adds"),
    key("feed-forward", "feed-forward adds"),
    key("size", "the stream after the block"),
  );
}

function streamChart() {
  const { height } = CHART;
  const width = bounded(byId("stream").clientWidth, 280, 832);
  const scale = streamScale(width);
  return svg(
    "svg",
    {
      viewBox: `0 0 ${width} ${height}`,
      width,
      height,
      class: "chart",
      role: "img",
      "aria-label": "Lengths by block at this position; the numbers are in the table below",
    },
    ...streamAxes(scale, width),
    ...streamColumns(scale),
    ...streamLine(scale),
  );
}

// Where blocks and sizes lie in the chart, in pixels. Block -1 stands for the embeddings.
function streamScale(width) {
  const { residual, model } = state.data;
  const { i } = state;
  const { height, left, right, top, bottom } = CHART;
  const blocks = range(model.n_layer);
  const largest = Math.max(
    residual.sizes.at(0, i),
    ...blocks.map((block) => residual.sizes.at(block + 1, i)),
    ...blocks.map((block) => residual.attention.at(block, i)),
    ...blocks.map((block) => residual.feed_forward.at(block, i)),
  );
  const step = (width - left - right) / (model.n_layer + 1);
  return {
    largest,
    step,
    x: (block) => left + (block + 1.5) * step,
    y: (size) => height - bottom - ((height - bottom - top) * size) / (largest || 1),
  };
}

function streamAxes({ x, y, step, largest }, width) {
  const { height, left, right } = CHART;
  const ticks = [0, largest / 2, largest].flatMap((size) => [
    svg("line", { x1: left, x2: width - right, y1: y(size), y2: y(size), class: "grid" }),
    svg("text", { x: left - 8, y: y(size) + 4, "text-anchor": "end" }, shortTick(size)),
  ]);
  const every = Math.ceil(26 / step); // so that the names do not touch
  const names = range(state.data.model.n_layer + 1)
    .map((k) => k - 1)
    .filter((block) => block < 0 || (block % every === 0 && (block > 0 || every === 1)))
    .map((block) =>
      svg("text", { x: x(block), y: height - 8, "text-anchor": "middle" }, blockLabel(block)),
    );
  return [...ticks, ...names];
}

function streamColumns({ x, y, step }) {
  const { residual, model } = state.data;
  const { i } = state;
  const width = Math.min(18, 0.36 * step);
  const column = (left, size, name) =>
    svg("rect", { x: left, y: y(size), width, height: y(0) - y(size), class: name });
  return range(model.n_layer).flatMap((block) => [
    column(x(block) - width - 0.5, residual.attention.at(block, i), "attention"),
    column(x(block) + 0.5, residual.feed_forward.at(block, i), "feed-forward"),
  ]);
}

function streamLine({ x, y }) {
  const { residual, model } = state.data;
  const points = range(model.n_layer + 1).map((k) => [x(k - 1), y(residual.sizes.at(k, state.i))]);
  return [
    svg("polyline", { points: points.map((point) => point.join(",")).join(" "), class: "size" }),
    ...points.map(([cx, cy]) => svg("circle", { cx, cy, r: 3, class: "size" })),
  ];
}

const blockLabel = (block) => (block < 0 ? "emb" : String(block));
const shortTick = (x) => (x >= 100 ? x.toFixed(0) : x.toPrecision(2).replace(/^0\.0$/, "0"));

// ---------------------------------------------------------------- operations

// The places of the values that have these names without their block.
function operationsOf(kinds, block) {
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
function operationLine(k) {
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

function buildOperations() {
  const { operations, model } = state.data;
  byId("operations-text").textContent =
    `All ${operations.names.length} values that the model computes, in order, from the ids to the ` +
    `logits, under the names that explain.py --dump gives them. Each has its formula, a few ` +
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
        ...fact("Smallest", low),
        ...fact("Largest", high),
        ...fact("Mean", mean),
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

function showSamples() {
  for (const node of document.querySelectorAll("#operations [data-operation]")) {
    node.textContent = samplesText(Number(node.dataset.operation));
  }
}

function sourceElement({ file, first_line, text }, functionName) {
  const lines = text.replace(/\n$/, "").split("\n");
  const numbered = lines.map((line, k) =>
    element(
      "span",
      { class: "code-line" },
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

// ---------------------------------------------------------------- a served page

// A probable token: when the page is served, choosing it continues the text with it.
function continuation(id) {
  const token = state.data.tokens[id];
  const isText = token.text !== "" && !token.text.includes("\ufffd") && id !== state.data.eot;
  if (served === null || !isText) return tokenElement(id);
  return element(
    "button",
    {
      type: "button",
      class: "continue",
      "aria-label": `Go on with ${quoted(id)}`,
      onclick: () => compute(state.data.text + token.text),
    },
    tokenElement(id),
  );
}

function buildForm() {
  if (served === null) return;
  byId("prompt-form").hidden = false;
  byId("continue-hint").hidden = false;
  byId("prompt").value = state.data.prompt;
  byId("n-tokens").max = state.data.model.n_ctx;
  byId("n-tokens").value = state.data.n_tokens_to_generate;
}

async function compute(prompt) {
  const status = byId("prompt-status");
  const controls = document.querySelectorAll("#prompt-form button, #sampling button");
  const wasChosen = byId("sampling").contains(document.activeElement);
  status.textContent = "Computing …";
  for (const control of controls) control.disabled = true;
  try {
    const response = await fetch("/compute", {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Token": served.token },
      body: JSON.stringify({ prompt, n_tokens: Number(byId("n-tokens").value) }),
    });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.error);
    show(answer);
    if (wasChosen) byId("sampling").querySelector("button")?.focus({ preventScroll: true });
    status.textContent = "Done.";
  } catch (error) {
    const isGone = error instanceof TypeError; // of `fetch`: nobody answered
    const reason = isGone ? "the server does not answer; start it again" : error.message;
    status.textContent = `Not computed: ${reason}`;
  } finally {
    for (const control of controls) control.disabled = false;
  }
}

// ---------------------------------------------------------------- all of it

function show(data) {
  state.data = unpacked(data);
  // The last token of the prompt: what the model wrote follows it.
  state.i = bounded(nSeq() - data.n_generated - 1, 0, nSeq() - 1);
  buildForm();
  buildOverview();
  buildTokens();
  buildNext();
  buildSampling();
  buildAttention();
  buildLens();
  buildResidual();
  buildOperations();
  showPosition();
}

function redrawColours() {
  readColours();
  drawLegend();
  drawThumbnails();
  colourLens();
  for (const heatmap of Object.values(heatmaps)) heatmap.paint();
}

function followReader() {
  document.addEventListener("pointerover", (event) => {
    const i = positionUnder(event.target);
    if (i !== null) mark(i);
    else if (!event.target.closest(".heatmap")) mark(state.i);
  });
  document.addEventListener("click", (event) => {
    const i = positionUnder(event.target);
    if (i !== null) choose(i);
  });
  byId("previous-token").addEventListener("click", () => choose(state.i - 1));
  byId("next-token").addEventListener("click", () => choose(state.i + 1));
  const steps = {
    ArrowLeft: -1,
    ArrowUp: -1,
    ArrowRight: 1,
    ArrowDown: 1,
    Home: -Infinity,
    End: Infinity,
  };
  moveWithArrows(byId("token-list"), steps, (step) => {
    tokenButton(bounded(state.i + step, 0, nSeq() - 1)).focus();
  });
  for (const id of Object.keys(SLIDERS)) byId(id).addEventListener("input", showSampling);
  byId("block").addEventListener("change", (event) =>
    chooseHead(Number(event.target.value), state.head),
  );
  byId("head").addEventListener("change", (event) => {
    const { value } = event.target;
    chooseHead(state.block, value === "mean" ? value : Number(value));
  });
  moveWithArrows(byId("thumbnails"), GRID_STEPS, ([down, right]) => {
    const { n_layer, n_head } = state.data.model;
    const head = state.head === "mean" ? 0 : state.head;
    chooseHead(bounded(state.block + down, 0, n_layer - 1), bounded(head + right, 0, n_head - 1));
    thumbnailButton(state.block, state.head).focus();
  });
  followLens();
  byId("prompt-form").addEventListener("submit", (event) => {
    event.preventDefault();
    compute(byId("prompt").value);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawColours);
  window.addEventListener("resize", () => {
    for (const heatmap of Object.values(heatmaps)) heatmap.layOut();
    showStream();
  });
}

function followLens() {
  const table = byId("lens-table");
  table.addEventListener("click", (event) => {
    const cell = event.target.closest("[data-at]");
    if (!cell) return;
    const row = cell.dataset.row === undefined ? state.lensRow : Number(cell.dataset.row);
    chooseLensCell(row, positionUnder(cell), false);
  });
  moveWithArrows(table, GRID_STEPS, ([down, right]) =>
    chooseLensCell(state.lensRow + down, state.i + right, true),
  );
}

// The section that is being read, in the navigation.
function followSections() {
  const observer = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) {
        if (!isIntersecting) continue;
        for (const link of document.querySelectorAll("nav a")) {
          if (link.hash !== `#${target.id}`) {
            link.removeAttribute("aria-current");
            continue;
          }
          link.setAttribute("aria-current", "true");
          const nav = link.parentElement; // on a phone it is wider than the window
          nav.scrollLeft = link.offsetLeft - nav.offsetLeft - nav.clientWidth / 2;
        }
      }
    },
    { rootMargin: "-20% 0px -79% 0px" },
  ); // a line in the upper part of the window
  for (const section of document.querySelectorAll("section")) observer.observe(section);
}

readColours();
drawLegend();
show(embedded("data"));
followReader();
followSections();
