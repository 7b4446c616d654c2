// Draws the section of tokens: the text as buttons, and how merges have made the chosen token.

import { bounded } from "./arrays.js";
import { moveWithArrows } from "./arrow_keys.js";
import { choosePosition } from "./choices.js";
import { byId, element, fact, tokenElement } from "./elements.js";
import { nSeq, positionOf, state } from "./state.js";
import { hexBytes, quoted, visible } from "./text.js";

export function buildTokens() {
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
        onfocus: () => choosePosition(i), // clicks are followed everywhere: see page.js
      },
      tokenElement(id),
    ),
  );
  byId("token-list").replaceChildren(...buttons);
}

function tokenButton(i) {
  return byId("token-list").children[i];
}

export function showToken() {
  const { data, i } = state;
  const id = data.ids[i];
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
      fact("Id", String(id)),
      fact("Bytes", hexBytes(data.tokens[id].bytes)),
      fact("Comes from", i >= nSeq() - data.n_generated ? "the model" : "the prompt"),
    ),
    ...mergeTable(data.merges[id]),
  );
}

export function followTokens() {
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
}

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
