// The parts of the way from text to the next token: what they are called, what they compute, and
// where more about them stands.

import { state } from "./state.js";
import { count } from "./text.js";

// `kinds`: the values that belong to a part, by their names without the block.
export const PARTS = {
  text: {
    title: "Text",
    shape: () => count(new TextEncoder().encode(state.data.text).length, "byte"),
    text: "A string, in UTF-8.",
    kinds: [],
    section: "tokens",
  },
  ids: {
    title: "Token ids",
    shape: () => "[n_seq]",
    text:
      "The tokenizer cuts the text into tokens of its vocabulary: frequent words are one token, " +
      "rare ones several. From here on the text is a list of numbers.",
    kinds: [],
    section: "tokens",
  },
  embeddings: {
    title: "Embeddings",
    shape: () => "[n_seq, n_embd]",
    text:
      "A vector for the token, looked up by its id, plus a vector for its position. " +
      "The sum enters the residual stream.",
    kinds: ["wte", "wpe", "embeddings"],
    section: "residual",
  },
  attention: {
    title: "Attention",
    shape: () => "reads and adds [n_seq, n_embd]",
    text:
      "Each position has a query, a key and a value. Its query is compared with the keys of " +
      "all positions up to its own: the better the match, the more of that position’s value " +
      "it gets. The result is added to the stream. Nowhere else do positions meet.",
    kinds: [
      "ln_1",
      "attn.c_attn",
      "attn.q",
      "attn.k",
      "attn.v",
      "attn.scores",
      "attn.weights",
      "attn.heads",
      "attn.c_proj",
      "residual_after_attn",
    ],
    section: "attention",
  },
  feedForward: {
    title: "Feed-forward",
    shape: () => "widens to 4 · n_embd, adds [n_seq, n_embd]",
    text:
      "Each position by itself: its vector is made four times as wide, passes an activation " +
      "function, and is made narrow again. The result is added to the stream.",
    kinds: ["ln_2", "mlp.c_fc", "mlp.gelu", "mlp.c_proj", "h"],
    section: "lens",
  },
  norm: {
    title: "Last layer norm",
    shape: () => "[n_seq, n_embd]",
    text: "Each vector is scaled to mean 0 and variance 1, then multiplied by g, and b is added.",
    kinds: ["ln_f"],
    section: "lens",
  },
  logits: {
    title: "Logits",
    shape: () => "[n_seq, n_vocab]",
    text:
      "How well each vector matches the embedding of each token of the vocabulary. " +
      "The softmax turns these scores into probabilities.",
    kinds: ["logits"],
    section: "next",
  },
  next: {
    title: "Next token",
    shape: () => "one id",
    text:
      "One token is chosen by its probability and appended to the text. For the token after it " +
      "all of this is done again.",
    kinds: [],
    section: "next",
  },
};
export const IN_BLOCK = ["attention", "feedForward"];
