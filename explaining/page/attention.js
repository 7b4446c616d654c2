// Draws attention: the matrix of a head, and what the chosen position looks at: lines and numbers.

import { range } from "./arrays.js";
import { chooseHead, choosePosition } from "./choices.js";
import { colourOf, rgb } from "./colours.js";
import { byId, element, meter, svg, tokenElement } from "./elements.js";
import { Heatmap, positionLabel } from "./heatmap.js";
import { heatmaps } from "./marks.js";
import { nSeq, positionOf, state } from "./state.js";
import { quoted } from "./text.js";

export function buildAttention() {
  const { n_layer, n_head } = state.data.model;
  const blocks = range(n_layer).map((k) => element("option", { value: k }, String(k)));
  const heads = range(n_head).map((k) => element("option", { value: k }, String(k)));
  byId("block").replaceChildren(...blocks);
  byId("head").replaceChildren(element("option", { value: "mean" }, "mean"), ...heads);
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
    rowLabel: positionLabel,
    columnLabel: positionLabel,
    share: (row, column) => (column > row ? null : attentionWeight(row, column)),
    describe: describeWeight,
    onchoose: ({ row }) => choosePosition(row),
  });
}

function describeWeight(query, key) {
  const { ids } = state.data;
  const from = `Position ${positionOf(query)} ${quoted(ids[query])}`;
  const to = `position ${positionOf(key)} ${quoted(ids[key])}`;
  if (key > query) return `${from} cannot see ${to}, which comes later.`;
  const weight = attentionWeight(query, key);
  return `${from} looks at ${to} with weight ${weight.toFixed(3)}.`;
}

// How much position `query` attends to `key`, by the chosen head, or the mean of all of the block.
function attentionWeight(query, key) {
  const { block, head } = state;
  const weights = state.data.attention;
  const place = (query * (query + 1)) / 2 + key; // of the triangle, row by row
  if (head !== "mean") return weights.at(block, head, place);
  const nHead = weights.shape[1];
  let sum = 0;
  for (let h = 0; h < nHead; h++) sum += weights.at(block, h, place);
  return sum / nHead;
}

export function followAttention() {
  byId("block").addEventListener("change", (event) =>
    chooseHead(Number(event.target.value), state.head),
  );
  byId("head").addEventListener("change", (event) => {
    const { value } = event.target;
    chooseHead(state.block, value === "mean" ? value : Number(value));
  });
}

export function drawLegend() {
  const context = byId("legend").getContext("2d");
  for (let x = 0; x < 128; x++) {
    context.fillStyle = rgb(colourOf(x / 127));
    context.fillRect(x, 0, 1, 1);
  }
}

// The matrix of the head that was chosen.
export function showMatrix() {
  heatmaps.attention.paint();
  heatmaps.attention.markPosition(state.i);
}

export function showAttention() {
  const { block, head, i } = state;
  byId("block").value = block;
  byId("head").value = head;
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
  const { data, i } = state;
  const weights = range(i + 1).map((key) => attentionWeight(i, key));
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
  return element(
    "tr",
    attributes,
    element("td", {}, position),
    element("th", { scope: "row" }, token),
    element("td", {}, meter(6 * weight), weight.toFixed(4)),
  );
}

const LINE_HEIGHT = 22; // of a token beside the lines, as in attention.css
const LINES_WIDTH = 120;

// The tokens twice, side by side: from the chosen one on the left to those it looks at.
function showLines() {
  const { data, i } = state;
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
    const weight = attentionWeight(i, key);
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
