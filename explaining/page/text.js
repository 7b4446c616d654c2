// How a text, a token or a number is written on the page.

import { state } from "./state.js";

// Characters that cannot be seen, or that would turn the text around them: controls, formats such
// as right-to-left marks, private and unassigned ones, spaces other than the plain one.
const INVISIBLE =
  /[\p{Cc}\p{Cf}\p{Co}\p{Cn}\p{Cs}\p{Zl}\p{Zp}\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]/u;
const SHOWN_AS = { " ": "·", "\n": "↵", "\r": "␍", "\t": "⇥" };

function visibleCharacter(character) {
  if (character in SHOWN_AS) return SHOWN_AS[character];
  if (!INVISIBLE.test(character)) return character;
  return `[U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}]`;
}

export const visible = (text) => Array.from(text, visibleCharacter).join("");

export const hexBytes = (hex) => hex.match(/../g).join(" ").toUpperCase();

// A token as it is shown: its text, or its bytes if those are only part of a character.
export function tokenText(id) {
  const token = state.data.tokens[id];
  if (token.bytes === "") return "(unused)";
  const isPart = token.text.includes("\ufffd") && !token.bytes.includes("efbfbd");
  if (isPart) return `‹${hexBytes(token.bytes)}›`;
  const text = visible(token.text);
  return /^\p{M}/u.test(text) ? `◌${text}` : text; // an accent without its letter
}

// For a label: quotes show where the token begins and ends.
export const quoted = (id) => `“${tokenText(id)}”`;

export const shortened = (text, n) => {
  const characters = Array.from(text);
  return characters.length > n ? `${characters.slice(0, n - 1).join("")}…` : text;
};

export function percent(p) {
  if (p >= 0.0995) return `${(100 * p).toFixed(p < 0.99 ? 0 : 1)}%`;
  if (p >= 0.0001) return `${(100 * p).toPrecision(2)}%`;
  return p > 0 ? "<0.01%" : "0%";
}

// A number of any size in about seven characters.
export function shortNumber(x) {
  if (x <= state.data.masked) return "masked";
  const size = Math.abs(x);
  if (x === 0) return "0";
  return size >= 1e4 || size < 1e-3 ? x.toExponential(1) : x.toFixed(size < 10 ? 3 : 1);
}

export const count = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
