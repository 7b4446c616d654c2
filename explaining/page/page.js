// Fills page.html from the data that explaining/page_data.py has computed, and follows the reader.
//
// Each section has a file. In it, `build...` draws what depends on the data alone, `show...` what
// depends on a choice, and `follow...` listens to the reader.

import {
  buildAttention,
  drawLegend,
  followAttention,
  showAttention,
  showMatrix,
} from "./attention.js";
import { chooseData, choosePosition, drawnAfter } from "./choices.js";
import { readColours } from "./colours.js";
import { byId, element, tokenElement } from "./elements.js";
import { buildForm, followForm } from "./form.js";
import { buildThumbnails, drawThumbnails, followThumbnails, showHead } from "./heads.js";
import { buildLens, colourLens, followLens, showLensCell } from "./lens.js";
import { heatmaps, mark, positionUnder } from "./marks.js";
import { buildNext, showCandidates } from "./next.js";
import { buildOperations, showSamples } from "./operations.js";
import { buildOverview, showPart } from "./overview.js";
import { buildResidual, showStream } from "./residual.js";
import { buildSampling, followSliders } from "./sampling.js";
import { embedded, nSeq, positionOf, state } from "./state.js";
import { buildTokens, followTokens, showToken } from "./tokens.js";

drawnAfter.data = [
  buildForm,
  buildOverview,
  buildTokens,
  buildNext,
  buildSampling,
  buildAttention,
  buildThumbnails,
  buildLens,
  buildResidual,
  buildOperations,
];
drawnAfter.position = [
  showChosen,
  showToken,
  showCandidates,
  showPart,
  showHead,
  showAttention,
  showLensCell,
  showStream,
  showSamples,
];
drawnAfter.head = [showPart, showMatrix, showHead, showAttention];

readColours();
drawLegend();
chooseData(embedded("data"));
followMarks();
followHeader();
followTokens();
followSliders();
followAttention();
followThumbnails();
followLens();
followForm();
followWindow();
followSections();

function followMarks() {
  document.addEventListener("pointerover", (event) => {
    const i = positionUnder(event.target);
    if (i !== null) mark(i);
    else if (!event.target.closest(".heatmap")) mark(state.i);
  });
  document.addEventListener("click", (event) => {
    const i = positionUnder(event.target);
    if (i !== null) choosePosition(i);
  });
}

function showChosen() {
  const i = state.i;
  byId("chosen-token").replaceChildren(
    element("span", { class: "where" }, `${positionOf(i)}`),
    tokenElement(state.data.ids[i]),
  );
  byId("previous-token").disabled = i === 0;
  byId("next-token").disabled = i === nSeq() - 1;
}

function followHeader() {
  byId("previous-token").addEventListener("click", () => choosePosition(state.i - 1));
  byId("next-token").addEventListener("click", () => choosePosition(state.i + 1));
}

function followWindow() {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    readColours();
    drawLegend();
    drawThumbnails();
    colourLens();
    for (const heatmap of Object.values(heatmaps)) heatmap.paint();
  });
  window.addEventListener("resize", () => {
    for (const heatmap of Object.values(heatmaps)) heatmap.layOut();
    showStream();
  });
}

// The section that is being read, in the navigation.
function followSections() {
  const observer = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) {
        if (!isIntersecting) continue;
        for (const link of document.querySelectorAll("nav a")) {
          if (link.hash !== `#${target.id}`) {
            link.removeAttribute("aria-current");
            continue;
          }
          link.setAttribute("aria-current", "true");
          const nav = link.parentElement; // on a phone it is wider than the window
          nav.scrollLeft = link.offsetLeft - nav.offsetLeft - nav.clientWidth / 2;
        }
      }
    },
    { rootMargin: "-20% 0px -79% 0px" },
  ); // a line in the upper part of the window
  for (const section of document.querySelectorAll("section")) observer.observe(section);
}
