// Arrow keys: of a group of elements only one is reached by Tab, they go from one to the next.

// steps: {key: what `move` is called with}
export function moveWithArrows(container, steps, move) {
  container.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in steps)) return;
    event.preventDefault();
    move(steps[event.key]);
  });
}

// [down, right]
export const GRID_STEPS = {
  ArrowUp: [-1, 0],
  ArrowDown: [1, 0],
  ArrowLeft: [0, -1],
  ArrowRight: [0, 1],
};
