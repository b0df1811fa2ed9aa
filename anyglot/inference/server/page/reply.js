// One reply of the model: shown while its chunks arrive, kept as the content parts it came to.

import { ApiError } from "./api.js";
import { h, icon } from "./dom.js";
import { TokenView } from "./tokens.js";
import { emptyView, viewOf } from "./parts/part.js";
import { SpeechView } from "./parts/speech.js";
import { WaitingView } from "./parts/waiting.js";

const ENDS = { length: "reached the limit of tokens", cancelled: "stopped" };

export class Reply {
  /** @param {{seed: number, again: () => void}} request its seed; again: to ask for another reply to the same. */
  constructor({ seed, again }) {
    this.parts = []; // content parts, as the next request sends them back
    this.open = new Map(); // the views of media that are not whole yet, by the part's index
    this.paragraph = null; // that text goes on in
    this.seed = seed;
    this.again = again;
    this.began = performance.now();
    this.body = h("div.parts");
    this.foot = h("footer");
    this.element = h("article.reply.writing", { "aria-label": "Reply", "aria-busy": "true" }, this.body, this.foot);
  }

  /** Take one chunk of the stream. */
  take({ choices, usage }) {
    if (usage) this.written = usage.completion_tokens;
    for (const { delta, finish_reason } of choices ?? []) {
      if (delta.content) this.text(delta.content);
      if (delta.anyglot) this.medium(delta.anyglot);
      if (finish_reason) this.reason = finish_reason;
    }
  }

  text(delta) {
    if (!this.paragraph) {
      this.paragraph = document.createTextNode("");
      this.parts.push({ type: "text", text: "" });
      this.body.append(h("p.text", {}, this.paragraph));
    }
    this.parts.at(-1).text += delta;
    this.paragraph.appendData(delta);
  }

  medium(event) {
    const { index, modality } = event;
    if (event.event === "tokens") {
      this.tokens(event.ids, event.kinds);
      return;
    }
    this.paragraph = null; // text that comes after a medium is another paragraph
    if (event.event === "span_start") this.show(index, new WaitingView(modality, event.grid));
    if (event.event === "media_chunk" && event.pcm16) this.sound(event);
    if (event.event === "media_ready") this.whole(index, modality, event.part);
  }

  sound({ index, sample_rate, pcm16 }) {
    if (!(this.open.get(index) instanceof SpeechView)) this.show(index, new SpeechView());
    this.open.get(index).chunk(sample_rate, pcm16);
  }

  whole(index, modality, part) {
    const view = this.open.get(index);
    if (part) this.parts.push(part);
    if (!part) this.show(index, { element: emptyView(modality) });
    else if (view instanceof SpeechView && part.type === "audio_url") view.ready(part.audio_url.url);
    else this.show(index, { element: viewOf(part) });
    this.open.delete(index);
  }

  /** Put a view where that part stands, instead of what stood there. */
  show(index, view) {
    const before = this.open.get(index);
    if (before) before.element.replaceWith(view.element);
    else this.body.append(view.element);
    this.open.set(index, view);
  }

  tokens(ids, kinds) {
    if (!this.tokenView) {
      this.tokenView = new TokenView();
      this.element.insertBefore(this.tokenView.element, this.foot);
    }
    this.tokenView.add(ids, kinds);
    const last = [...this.open.values()].at(-1);
    if (last instanceof WaitingView) last.progress(ids.length);
  }

  /** No more chunks come: all is there, or `error` says why not. */
  close(error) {
    for (const view of this.open.values()) {
      if (view instanceof SpeechView) view.abandon();
      view.element.remove();
    }
    this.open.clear();
    if (error?.name === "AbortError") this.reason = "cancelled";
    else if (error) this.failure = error.message;
    this.end(this.facts());
    if (error && error.name !== "AbortError" && !(error instanceof ApiError)) throw error; // a fault of this page
  }

  /** What is needed to show it again. */
  get kept() {
    return { parts: this.parts, failure: this.failure, facts: this.told ?? `${ENDS.cancelled} · seed ${this.seed}` };
  }

  /** Show what was written before the page was loaded again. @param {object} kept */
  restore({ parts, failure, facts }) {
    this.parts = parts;
    this.failure = failure;
    this.body.append(...parts.map(viewOf));
    this.end(facts);
  }

  /** Nothing more comes. facts: a line about the reply. */
  end(facts) {
    this.told = facts;
    this.element.classList.remove("writing");
    this.element.removeAttribute("aria-busy");
    if (this.failure) this.body.append(h("p.error", { role: "alert" }, this.failure));
    this.foot.append(h("span.facts", {}, facts), this.retryButton());
    if (navigator.clipboard && this.parts.some((part) => part.type === "text")) this.foot.append(this.copyButton());
  }

  facts() {
    const seconds = (performance.now() - this.began) / 1000;
    const rate = this.written ? `${this.written} tokens · ${(this.written / seconds).toFixed(0)} a second` : null;
    return [ENDS[this.reason], rate, `seed ${this.seed}`].filter(Boolean).join(" · ");
  }

  retryButton() {
    return quietButton("again", "Ask again", this.again);
  }

  copyButton() {
    const text = () => this.parts.filter((part) => part.type === "text").map((part) => part.text).join("\n");
    const button = quietButton("copy", "Copy the text", async () => {
      await navigator.clipboard.writeText(text());
      button.replaceChildren(icon("done"));
    });
    return button;
  }
}

function quietButton(drawing, label, onclick) {
  return h("button.quiet", { type: "button", "aria-label": label, title: label, onclick }, icon(drawing));
}
