// Draws the residual stream: how long its vectors are, and those that are added to it.

import { range } from "./arrays.js";
import { choosePosition } from "./choices.js";
import { byId, element, tokenElement } from "./elements.js";
import { Heatmap, positionLabel } from "./heatmap.js";
import { heatmaps } from "./marks.js";
import { nSeq, positionOf, state } from "./state.js";
import { blockLabel, streamChart, streamLegend } from "./stream_chart.js";
import { quoted } from "./text.js";

export function buildResidual() {
  const { residual } = state.data;
  const draw = (id, ...which) => new Heatmap(byId(id), sizeMap(...which));
  heatmaps.attentionSizes = draw("attention-sizes", "What attention adds", residual.attention, 0);
  heatmaps.feedForwardSizes = draw(
    "feed-forward-sizes",
    "What feed-forward adds",
    residual.feed_forward,
    0,
  );
  heatmaps.streamSizes = draw("stream-sizes", "The stream", residual.sizes, -1);
}

// The options of a heatmap whose rows are blocks; -1 stands for the embeddings.
function sizeMap(name, array, firstBlock) {
  const logarithm = (x) => Math.log(Math.max(x, 1e-9)); // lengths differ by factors
  const logs = array.numbers.map(logarithm);
  const low = Math.min(...logs);
  const high = Math.max(...logs);
  return {
    label: `${name} by block and position`,
    nRows: array.shape[0],
    nColumns: nSeq(),
    positionIsRow: false,
    isSquare: false,
    smallest: 4,
    largest: 24,
    rowLabelWidth: 28,
    columnLabelHeight: 0,
    rowLabel: (row) => blockLabel(row + firstBlock),
    columnLabel: positionLabel,
    // Squared, since `colourOf` takes the root.
    share: (row, column) => ((logarithm(array.at(row, column)) - low) / (high - low || 1)) ** 2,
    describe: (row, column) => {
      const block = row + firstBlock < 0 ? "Embeddings" : `Block ${row + firstBlock}`;
      const token = quoted(state.data.ids[column]);
      const size = array.at(row, column).toFixed(2);
      return `${block}, position ${positionOf(column)} ${token}: ${size}`;
    },
    onchoose: ({ column }) => choosePosition(column),
  };
}

export function showStream() {
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
  const row = (label, ...sizes) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, label),
      ...sizes.map((size) => element("td", {}, size === null ? "–" : size.toFixed(2))),
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
