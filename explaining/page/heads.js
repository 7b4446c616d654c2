// Draws all heads as small pictures, a button each: thumbnails of their matrices.

import { bounded, range } from "./arrays.js";
import { GRID_STEPS, moveWithArrows } from "./arrow_keys.js";
import { chooseHead } from "./choices.js";
import { colourOf } from "./colours.js";
import { byId, element } from "./elements.js";
import { nSeq, state } from "./state.js";

export function buildThumbnails() {
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

export function drawThumbnails() {
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

export function showHead() {
  const { block, head } = state;
  for (const button of byId("thumbnails").querySelectorAll("button")) {
    const isChosen =
      Number(button.dataset.block) === block &&
      (head === "mean" || Number(button.dataset.head) === head);
    button.setAttribute("aria-pressed", String(isChosen));
    button.tabIndex = button === thumbnailButton(block, head) ? 0 : -1;
  }
}

export function followThumbnails() {
  moveWithArrows(byId("thumbnails"), GRID_STEPS, ([down, right]) => {
    const { n_layer, n_head } = state.data.model;
    const head = state.head === "mean" ? 0 : state.head;
    chooseHead(bounded(state.block + down, 0, n_layer - 1), bounded(head + right, 0, n_head - 1));
    thumbnailButton(state.block, state.head).focus();
  });
}
