// Marks a position wherever it is on the page, and scrolls to it.

import { positionOf, state } from "./state.js";

export const heatmaps = {}; // {name: Heatmap}, of all sections: each has marks of its own

export function mark(i) {
  for (const node of document.querySelectorAll(".marked")) node.classList.remove("marked");
  const position = positionOf(i);
  const selector = `[data-at="${position}"], #tokens [data-position="${position}"]`;
  for (const node of document.querySelectorAll(selector)) node.classList.add("marked");
  for (const heatmap of Object.values(heatmaps)) heatmap.markPosition(i);
}

// Whatever belongs to a position carries it as data-position or data-at.
export function positionUnder(target) {
  const node = target.closest("[data-at], [data-position]");
  if (!node) return null;
  return Number(node.dataset.at ?? node.dataset.position) - state.data.first_position;
}

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
export function revealMarked() {
  for (const region of document.querySelectorAll(".scroll")) {
    const node = region.querySelector(".is-chosen, td[aria-selected], tbody tr.marked");
    if (node) scrollWithin(region, node);
  }
}
