// What the page shows: its data, and what the reader has chosen of them.
//
// A position of the text is counted from 0, as in the model. `i` is its place among those that the
// page shows: position = data.first_position + i.

export const embedded = (id) => JSON.parse(document.getElementById(id).textContent);
export const served = embedded("served"); // null, or {token}: the page can ask for new data

export const state = { data: null, i: 0, block: 0, head: "mean" };

export const nSeq = () => state.data.ids.length;
export const positionOf = (i) => state.data.first_position + i;
