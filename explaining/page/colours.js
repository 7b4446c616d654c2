// The colours of numbers from 0 to 1: from the page's background to a strong blue, which is dark on
// light, and light on dark.

import { bounded, range } from "./arrays.js";

let scaleColours = [];

export function readColours() {
  const style = getComputedStyle(document.documentElement);
  const stops = ["--scale-0", "--scale-1", "--scale-2"].map((name) => {
    const hex = style.getPropertyValue(name).trim().slice(1);
    return [0, 2, 4].map((k) => parseInt(hex.slice(k, k + 2), 16));
  });
  scaleColours = range(256).map((k) => {
    const [from, to] = k < 128 ? [stops[0], stops[1]] : [stops[1], stops[2]];
    const share = k < 128 ? k / 128 : (k - 128) / 127;
    return from.map((channel, c) => Math.round(channel + share * (to[c] - channel)));
  });
}

// By the square root, so that small weights can be told from none.
export const colourOf = (share) => scaleColours[Math.round(255 * Math.sqrt(bounded(share, 0, 1)))];
export const rgb = ([r, g, b]) => `rgb(${r} ${g} ${b})`;

// The colour of text on a colour of the scale: black or white, whichever has more contrast. That is
// decided by the relative luminance (WCAG 2.2).
export function inkOn(colour) {
  const [r, g, b] = colour.map((channel) => {
    const c = channel / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000000" : "#ffffff";
}
