// Draws the chart of the stream at the chosen position: its length after each block, as a line, and
// those of what is added, as columns.

import { bounded, range } from "./arrays.js";
import { byId, element, svg } from "./elements.js";
import { state } from "./state.js";

const CHART = { height: 240, left: 48, right: 12, top: 12, bottom: 28 };

export function streamLegend() {
  const key = (name, text) => element("span", { class: `key ${name}` }, text);
  return element(
    "p",
    { class: "keys" },
    key("attention", "attention adds"),
    key("feed-forward", "feed-forward adds"),
    key("size", "the stream after the block"),
  );
}

export function streamChart() {
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
    y: (size) => height - bottom - ((height - bottom - top) * size) / largest,
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

export const blockLabel = (block) => (block < 0 ? "emb" : String(block));
const shortTick = (x) => (x >= 100 ? x.toFixed(0) : x.toPrecision(2).replace(/^0\.0$/, "0"));
