// Stands where a medium will be, while its codes are written.

import { h } from "../dom.js";
import { frame, setNote } from "./frame.js";

/** A frame with the grid that the model fills: [height, width], [time, height, width], [length]; 0 is not known yet. */
export class WaitingView {
  constructor(modality, grid) {
    this.grid = grid.every(Boolean) ? grid : [];
    const [rows, columns] = this.grid.length > 1 ? this.grid.slice(-2) : [1, 16];
    this.body = h("div.waiting");
    this.body.style.setProperty("--rows", rows);
    this.body.style.setProperty("--columns", columns);
    this.element = frame(modality, this.body, { note: this.note() });
    this.element.setAttribute("aria-busy", "true");
    this.written = 0;
  }

  /** So many ids more were written. */
  progress(count) {
    this.written += count;
    setNote(this.element, this.note());
  }

  note() {
    const size = this.grid.length ? `${this.grid.join(" × ")} · ` : "";
    return `${size}${this.written ? `${this.written} tokens` : "being written"}`;
  }
}
