// What the reader chooses (a position, a head; on a served page other data), and what follows.
//
// The sections choose, and do not know who follows: page.js says it.

import { bounded, unpacked } from "./arrays.js";
import { mark, revealMarked } from "./marks.js";
import { nSeq, state } from "./state.js";

// The functions that draw what depends on each choice, in this order.
export const drawnAfter = { data: [], position: [], head: [] };

export function chooseData(data) {
  state.data = unpacked(data);
  // The last token of the prompt: what the model wrote follows it.
  state.i = bounded(nSeq() - data.n_generated - 1, 0, nSeq() - 1);
  for (const draw of drawnAfter.data) draw();
  drawPosition();
}

// Hovering marks a token everywhere; choosing it (a click, a tap, focus, arrow keys) keeps it, and
// the numbers on the page become those of its position.
export function choosePosition(i) {
  const chosen = bounded(i, 0, nSeq() - 1);
  if (chosen === state.i) return;
  state.i = chosen;
  drawPosition();
}

function drawPosition() {
  for (const draw of drawnAfter.position) draw();
  mark(state.i); // what was just made anew
  revealMarked();
}

export function chooseHead(block, head) {
  state.block = block;
  state.head = head; // a number, or "mean"
  for (const draw of drawnAfter.head) draw();
}
