// Draws a matrix as colours, and follows the reader through it.

import { bounded } from "./arrays.js";
import { GRID_STEPS, moveWithArrows } from "./arrow_keys.js";
import { colourOf, rgb } from "./colours.js";
import { element } from "./elements.js";
import { mark } from "./marks.js";
import { state } from "./state.js";
import { shortened, tokenText } from "./text.js";

// The label of a row or column that is a position.
export const positionLabel = (i) => shortened(tokenText(state.data.ids[i]), 9);

// A grid of numbers as colours, with a marked row and column, by pointer and arrow keys.
//
// label; nRows, nColumns; rowLabel(r), columnLabel(c): texts, and the room for them, in pixels:
// rowLabelWidth, columnLabelHeight (0: no labels); share(r, c): 0 to 1, or null for no cell;
// describe(r, c): a sentence; onchoose({row, column}): a cell was chosen; smallest, largest: the
// width of a cell, in pixels; isSquare: cells are as high as they are wide. Columns are positions
// of the text; positionIsRow: so are the rows.
export class Heatmap {
  constructor(container, options) {
    Object.assign(this, options);
    this.container = container;
    this.canvas = element("canvas", { "aria-hidden": "true" });
    this.cells = element("canvas"); // not shown: all but the marks, so that these can move fast
    // Read aloud only while one moves through this matrix: the others change with it.
    this.readout = element("p", { class: "readout", "aria-live": "off" });
    this.frame = element(
      "div",
      {
        class: "heatmap",
        tabindex: 0,
        role: "application",
        "aria-roledescription": "matrix",
        "aria-label": `${options.label}. Arrow keys move through it.`,
        onfocus: () => this.readout.setAttribute("aria-live", "polite"),
        onblur: () => this.readout.setAttribute("aria-live", "off"),
      },
      this.canvas,
    );
    container.replaceChildren(this.frame, this.readout);
    this.cursor = { row: options.nRows - 1, column: 0 };
    this.marked = 0;
    this.follow();
    this.layOut();
  }

  follow() {
    const cellAt = (event) => {
      const box = this.canvas.getBoundingClientRect();
      const row = Math.floor((event.clientY - box.top - this.top) / this.cellHeight);
      const column = Math.floor((event.clientX - box.left - this.left) / this.cellWidth);
      const isInside = row >= 0 && row < this.nRows && column >= 0 && column < this.nColumns;
      return isInside ? { row, column } : null;
    };
    this.frame.addEventListener("pointermove", (event) => {
      const cell = cellAt(event);
      if (cell) this.moveTo(cell, false);
    });
    this.frame.addEventListener("pointerleave", () => mark(state.i));
    this.frame.addEventListener("click", (event) => {
      const cell = cellAt(event);
      if (cell) this.moveTo(cell, true);
    });
    moveWithArrows(this.frame, GRID_STEPS, ([down, right]) => {
      const row = bounded(this.cursor.row + down, 0, this.nRows - 1);
      const column = bounded(this.cursor.column + right, 0, this.nColumns - 1);
      this.moveTo({ row, column }, true);
      this.reveal();
    });
  }

  moveTo(cell, isChosen) {
    this.cursor = cell;
    const i = this.positionIsRow ? cell.row : cell.column;
    if (isChosen) this.onchoose(cell);
    else mark(i);
    this.readout.textContent = this.describe(cell.row, cell.column);
    this.draw();
  }

  markPosition(i) {
    this.marked = i;
    if (this.positionIsRow) this.cursor.row = i;
    else this.cursor.column = i;
    this.readout.textContent = this.describe(this.cursor.row, this.cursor.column);
    this.draw();
  }

  // Scroll the cursor's cell into view.
  reveal() {
    const x = this.left + this.cursor.column * this.cellWidth;
    const y = this.top + this.cursor.row * this.cellHeight;
    const { frame } = this;
    frame.scrollLeft = bounded(
      frame.scrollLeft,
      x + this.cellWidth - frame.clientWidth,
      x - this.left,
    );
    frame.scrollTop = bounded(
      frame.scrollTop,
      y + this.cellHeight - frame.clientHeight,
      y - this.top,
    );
  }

  // The size of the cells: as wide as there is room for, but not too small to be hit.
  layOut() {
    this.left = this.rowLabelWidth;
    this.top = this.columnLabelHeight;
    const room = this.container.clientWidth - this.left - 2;
    this.cellWidth = bounded(Math.floor(room / this.nColumns), this.smallest, this.largest);
    this.cellHeight = this.isSquare ? this.cellWidth : 16;
    const width = this.left + this.nColumns * this.cellWidth + 2;
    const height = this.top + this.nRows * this.cellHeight + 2;
    this.ratio = window.devicePixelRatio || 1;
    for (const canvas of [this.canvas, this.cells]) {
      canvas.width = Math.round(width * this.ratio);
      canvas.height = Math.round(height * this.ratio);
    }
    this.canvas.style.inlineSize = `${width}px`;
    this.canvas.style.blockSize = `${height}px`;
    this.paint();
  }

  // Draw everything anew: other numbers, colours or sizes.
  paint() {
    const style = getComputedStyle(document.documentElement);
    this.colours = Object.fromEntries(
      ["ink", "muted", "accent"].map((name) => [name, style.getPropertyValue(`--${name}`)]),
    );
    const context = this.cells.getContext("2d");
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.clearRect(0, 0, this.cells.width, this.cells.height);
    this.paintCells(context);
    for (let row = 0; row < this.nRows; row++) this.drawRowLabel(context, row, "muted");
    for (let column = 0; column < this.nColumns; column++)
      this.drawColumnLabel(context, column, "muted");
    this.draw();
  }

  paintCells(context) {
    const gap = this.cellWidth > 8 ? 1 : 0;
    for (let row = 0; row < this.nRows; row++) {
      for (let column = 0; column < this.nColumns; column++) {
        const share = this.share(row, column);
        if (share === null) continue;
        context.fillStyle = rgb(colourOf(share));
        context.fillRect(
          this.left + column * this.cellWidth,
          this.top + row * this.cellHeight,
          this.cellWidth - gap,
          this.cellHeight - gap,
        );
      }
    }
  }

  // Draw what was painted, and the marks on it.
  draw() {
    const context = this.canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.drawImage(this.cells, 0, 0);
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    if (this.positionIsRow) this.drawRowLabel(context, this.marked, "accent");
    this.drawColumnLabel(context, this.marked, "accent");
    this.drawMarks(context);
  }

  setFont(context, colour) {
    const size = bounded(this.cellHeight - 2, 9, 12);
    context.font = `${size}px ui-monospace, Menlo, Consolas, monospace`;
    context.textBaseline = "middle";
    context.direction = "ltr";
    context.fillStyle = this.colours[colour];
  }

  drawRowLabel(context, row, colour) {
    this.setFont(context, colour);
    context.textAlign = "right";
    context.fillText(this.rowLabel(row), this.left - 6, this.top + (row + 0.5) * this.cellHeight);
  }

  drawColumnLabel(context, column, colour) {
    if (this.top === 0) return; // no room for labels
    context.save();
    this.setFont(context, colour);
    context.textAlign = "left";
    context.translate(this.left + (column + 0.5) * this.cellWidth, this.top - 6);
    context.rotate(-Math.PI / 2);
    context.fillText(this.columnLabel(column), 0, 0);
    context.restore();
  }

  drawMarks(context) {
    const { cellWidth: w, cellHeight: h, left, top } = this;
    context.strokeStyle = this.colours.accent;
    context.lineWidth = 1.5;
    const box = (row, column, rows, columns) =>
      context.strokeRect(left + column * w - 0.5, top + row * h - 0.5, columns * w, rows * h);
    box(0, this.marked, this.nRows, 1);
    if (this.positionIsRow) box(this.marked, 0, 1, this.nColumns);
    context.lineWidth = 2.5;
    box(this.cursor.row, this.cursor.column, 1, 1);
  }
}
