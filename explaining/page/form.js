// On a served page: the prompt can be edited, or continued by a probable token.

import { chooseData } from "./choices.js";
import { byId, element, tokenElement } from "./elements.js";
import { served, state } from "./state.js";
import { quoted } from "./text.js";

export function buildForm() {
  if (served === null) return;
  byId("prompt-form").hidden = false;
  byId("continue-hint").hidden = false;
  byId("prompt").value = state.data.prompt;
  byId("n-tokens").max = state.data.model.n_ctx;
  byId("n-tokens").value = state.data.n_tokens_to_generate;
}

export function followForm() {
  byId("prompt-form").addEventListener("submit", (event) => {
    event.preventDefault();
    compute(byId("prompt").value);
  });
}

// A probable token: when the page is served, choosing it continues the text with it.
export function continuation(id) {
  const token = state.data.tokens[id];
  const isText = token.text !== "" && !token.text.includes("\ufffd") && id !== state.data.eot;
  if (served === null || !isText) return tokenElement(id);
  return element(
    "button",
    {
      type: "button",
      class: "continue",
      "aria-label": `Go on with ${quoted(id)}`,
      onclick: () => compute(state.data.text + token.text),
    },
    tokenElement(id),
  );
}

async function compute(prompt) {
  const status = byId("prompt-status");
  const controls = document.querySelectorAll("#prompt-form button, #sampling button");
  const wasChosen = byId("sampling").contains(document.activeElement);
  status.textContent = "Computing …";
  for (const control of controls) control.disabled = true;
  try {
    const response = await fetch("/compute", {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Token": served.token },
      body: JSON.stringify({ prompt, n_tokens: Number(byId("n-tokens").value) }),
    });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.error);
    chooseData(answer);
    if (wasChosen) byId("sampling").querySelector("button")?.focus({ preventScroll: true });
    status.textContent = "Done.";
  } catch (error) {
    const isGone = error instanceof TypeError; // of `fetch`: nobody answered
    const reason = isGone ? "the server does not answer; start it again" : error.message;
    status.textContent = `Not computed: ${reason}`;
  } finally {
    for (const control of controls) control.disabled = false;
  }
}
