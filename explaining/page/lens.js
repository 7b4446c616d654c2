// Draws the logit lens: the token that each layer would have said, at every position.

import { bounded, range } from "./arrays.js";
import { GRID_STEPS, moveWithArrows } from "./arrow_keys.js";
import { choosePosition } from "./choices.js";
import { colourOf, inkOn, rgb } from "./colours.js";
import { bar, byId, element, tokenElement } from "./elements.js";
import { positionUnder } from "./marks.js";
import { positionOf, state } from "./state.js";
import { percent } from "./text.js";

let lensRow; // the chosen one

export function buildLens() {
  const { lens, ids } = state.data;
  lensRow = lens.names.length - 1;
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

// "h.3.residual_after_attn" -> "attention 3"
function lensRowLabel(name) {
  const [, block, after] = name.split(".");
  if (block === undefined) return name;
  return `${after ? "attention" : "feed-forward"} ${block}`;
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
    },
    tokenElement(lens.ids.at(row, i, 0)),
  );
}

export function colourLens() {
  for (const cell of byId("lens-table").querySelectorAll("td[data-row]")) {
    const colour = colourOf(Number(cell.dataset.probability));
    cell.style.background = rgb(colour);
    cell.style.color = inkOn(colour);
  }
}

const cellOfLens = (row, i) => byId("lens-table").tBodies[0].rows[row].cells[i + 1];

function chooseLensCell(row, i, takesFocus) {
  lensRow = bounded(row, 0, state.data.lens.names.length - 1);
  choosePosition(i);
  showLensCell();
  if (takesFocus) cellOfLens(lensRow, state.i).focus();
}

export function showLensCell() {
  const { data, i } = state;
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
    return bar(tokenElement(data.lens.ids.at(lensRow, i, k)), p, percent(p));
  });
  byId("lens-cell").replaceChildren(
    element("h3", {}, `After ${where}, at position ${positionOf(i)} `, tokenElement(data.ids[i])),
    element("ol", { class: "bars" }, ...bars),
  );
}

export function followLens() {
  const table = byId("lens-table");
  table.addEventListener("click", (event) => {
    const cell = event.target.closest("[data-at]");
    if (!cell) return;
    const row = cell.dataset.row === undefined ? lensRow : Number(cell.dataset.row);
    chooseLensCell(row, positionUnder(cell), false);
  });
  moveWithArrows(table, GRID_STEPS, ([down, right]) =>
    chooseLensCell(lensRow + down, state.i + right, true),
  );
}
