// The token view: a reply as what the model really wrote, ids of one vocabulary, coloured by medium.

import { h } from "./dom.js";
import { label, look } from "./modalities.js";

/** A ribbon with one stretch for each run of ids of a kind; opened, the ids themselves. */
export class TokenView {
  constructor() {
    this.runs = []; // [{kind, count, stretch, list}]
    this.count = 0;
    this.ribbon = h("span.ribbon", { "aria-hidden": "true" });
    this.total = h("span.total");
    this.list = h("div.runs");
    this.element = h("details.tokens", {}, h("summary", {}, this.ribbon, this.total), this.list);
  }

  /** @param {number[]} ids @param {string[]} kinds of each id: a modality, or what else it is ("control", ...) */
  add(ids, kinds) {
    ids.forEach((id, i) => this.one(id, kinds[i]));
    this.total.textContent = `${this.count} token${this.count === 1 ? "" : "s"}`;
  }

  one(id, kind) {
    let run = this.runs.at(-1);
    if (run?.kind !== kind) {
      run = { kind, count: 0, stretch: h(`span.${look(kind)}`), list: h("span.ids") };
      this.runs.push(run);
      this.ribbon.append(run.stretch);
      this.list.append(h(`div.run.${look(kind)}`, {}, h("span.kind", {}, label(kind)), run.list));
    }
    run.count += 1;
    run.stretch.style.flexGrow = run.count;
    run.list.append(h("span", {}, String(id)));
    this.count += 1;
  }
}
