// Draws what comes next: the most probable tokens after each position, and how the text fares.

import { range } from "./arrays.js";
import { bar, byId, element, fact, meter, tokenElement } from "./elements.js";
import { nSeq, positionOf, state } from "./state.js";
import { percent } from "./text.js";

const probabilityOfActual = (i) => 2 ** -state.data.next.surprises.at(i);

export function buildNext() {
  const { next, ids } = state.data;
  const decimals = (x) => (x === null ? "–" : x.toFixed(2));
  byId("totals").replaceChildren(
    fact("Bits per token", decimals(next.bits_per_token)),
    fact("Bits per byte", decimals(next.bits_per_byte)),
    fact("Tokens predicted", String(next.n_predicted)),
  );
  const largest = Math.max(1, ...next.surprises.numbers);
  const rows = ids.slice(1).map((id, k) => surpriseRow(id, k, largest));
  byId("surprises").tBodies[0].replaceChildren(...rows);
}

// The token at place k + 1, which the model has predicted at place k.
function surpriseRow(id, k, largest) {
  const { next } = state.data;
  const surprise = next.surprises.at(k);
  return element(
    "tr",
    { "data-at": positionOf(k + 1) },
    element("td", {}, String(positionOf(k + 1))),
    element("th", { scope: "row" }, tokenElement(id)),
    element("td", {}, percent(probabilityOfActual(k))),
    element("td", {}, String(next.ranks.at(k))),
    element("td", {}, meter((4 * surprise) / largest), surprise.toFixed(2)),
  );
}

export function candidateBars(i, n) {
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

export function showCandidates() {
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
