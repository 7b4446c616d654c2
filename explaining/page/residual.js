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
      columnLabel: positionLabel,
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
      onchoose: ({ column }) => choosePosition(column),
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
