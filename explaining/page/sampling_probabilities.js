// How probable each token is as the next one at a temperature, top-k and top-p.
//
// These are the probabilities with which generating/sampling.py draws: a test holds one against the
// other. They are computed here, since sliders are moved without asking Python.

// The ids of all logits, best first; of equal ones the lower id, since sorting keeps their order.
export function bestFirst(logits) {
  return Int32Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a]);
}

// The probability of each of `ids` (best first): temperature, then top-k, then top-p, and what is
// kept is scaled to sum to 1. What is compared with top-p is rounded to float32 as there: once
// a sum has reached 1, nothing more is below a top-p of 1.
export function samplingProbabilities(logits, ids, temperature, topK, topP) {
  const probabilities = new Float64Array(ids.length);
  if (temperature === 0) {
    probabilities[0] = 1;
    return probabilities;
  }
  const n = Math.min(topK || ids.length, ids.length);
  const best = logits[ids[0]];
  let sum = 0;
  for (let k = 0; k < n; k++) {
    probabilities[k] = Math.exp((logits[ids[k]] - best) / temperature);
    sum += probabilities[k];
  }
  let [cumulative, kept] = [0, 0];
  for (let k = 0; k < n; k++) {
    const p = Math.fround(probabilities[k] / Math.fround(sum));
    cumulative = Math.fround(cumulative + p);
    const before = Math.fround(cumulative - p); // the sum over all better ones
    probabilities[k] = k === 0 || before < Math.fround(topP) ? p : 0;
    kept += probabilities[k];
  }
  return probabilities.map((p) => p / kept);
}
