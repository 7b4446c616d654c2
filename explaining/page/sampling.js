// Draws the sliders of sampling, and how probable they make the token after the last one.

import { range } from "./arrays.js";
import { bar, byId } from "./elements.js";
import { continuation } from "./form.js";
import { bestFirst, samplingProbabilities } from "./sampling_probabilities.js";
import { state } from "./state.js";
import { count, percent } from "./text.js";

let idsBestFirst; // all ids of the vocabulary

const SLIDERS = { temperature: "temperature", "top-k": "top_k", "top-p": "top_p" };

export function buildSampling() {
  const { sampling, logits } = state.data;
  idsBestFirst = bestFirst(logits.numbers);
  byId("top-k").max = Math.max(100, sampling.top_k);
  byId("temperature").max = Math.max(2, sampling.temperature);
  // Greedy choice would show a single bar, so a page without sampling begins as trained.
  const start = sampling.temperature ? sampling : { temperature: 1, top_k: 0, top_p: 1 };
  for (const [id, name] of Object.entries(SLIDERS)) byId(id).value = start[name];
  showSampling();
}

function showSampling() {
  const { data } = state;
  const [temperature, topK, topP] = Object.keys(SLIDERS).map((id) => Number(byId(id).value));
  byId("temperature-value").textContent = temperature.toFixed(2);
  byId("top-k-value").textContent = topK === 0 ? "all" : topK;
  byId("top-p-value").textContent = topP.toFixed(2);
  const probabilities = samplingProbabilities(
    data.logits.numbers,
    idsBestFirst,
    temperature,
    topK,
    topP,
  );
  const nKept = probabilities.reduce((n, p) => n + (p > 0), 0);
  byId("kept").textContent = `${count(nKept, "token")} can be drawn.`;
  const bars = range(data.n_sliders).map((k) => {
    const [id, p] = [idsBestFirst[k], probabilities[k]];
    return bar(continuation(id), p, percent(p), {
      class: p === 0 ? "bar dropped" : "bar",
      "data-token-id": id,
      "data-probability": p,
    });
  });
  byId("sampling").replaceChildren(...bars);
}

export function followSliders() {
  for (const id of Object.keys(SLIDERS)) byId(id).addEventListener("input", showSampling);
}
