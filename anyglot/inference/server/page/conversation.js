// The turns of a chat: what was said, what was answered, and what of it the next request carries.

import { complete } from "./api.js";
import { h } from "./dom.js";
import { Reply } from "./reply.js";
import { viewOf } from "./parts/part.js";

export class Conversation {
  /**
   * @param {HTMLElement} log where turns are shown
   * @param {(boolean) => void} onBusy called as a reply begins and ends
   */
  constructor(log, onBusy) {
    this.log = log;
    this.onBusy = onBusy;
    this.turns = []; // [{user: parts, said: its element, reply: Reply | undefined}]
  }

  /** Say something, and show what is answered. */
  async say(parts, model, settings) {
    const turn = { user: parts, said: h("article.said", { "aria-label": "You" }, ...parts.map(viewOf)) };
    this.turns.push(turn);
    this.log.append(turn.said);
    await this.answer(turn, model, settings);
  }

  async answer(turn, model, settings) {
    this.stop();
    turn.reply?.element.remove();
    const messages = [...this.before(turn), { role: "user", content: turn.user.map(sendable) }];
    const reply = new Reply({
      seed: settings.seed,
      again: () => this.answer(turn, model, { ...settings, seed: settings.seed + 1 }),
    });
    turn.reply = reply;
    turn.said.after(reply.element);
    const aborter = (this.aborter = new AbortController());
    this.onBusy(true);
    let failure;
    try {
      for await (const chunk of complete({ model, messages, ...settings }, aborter.signal)) reply.take(chunk);
    } catch (error) {
      failure = error;
    } finally {
      if (this.aborter === aborter) this.onBusy(false);
    }
    reply.close(failure);
  }

  /** The messages before a turn. One that was not answered is left out: two of the user in a row are no chat. */
  before(turn) {
    const answered = this.turns.slice(0, this.turns.indexOf(turn)).filter(({ reply }) => reply?.parts.length);
    return answered.flatMap(({ user, reply }) => [
      { role: "user", content: user.map(sendable) },
      { role: "assistant", content: reply.parts.map(sendable) },
    ]);
  }

  stop() {
    this.aborter?.abort();
  }

  clear() {
    this.stop();
    this.turns = [];
    this.log.replaceChildren();
  }
}

/** A part as requests carry it, without how it is drawn where that is not needed to read it. */
function sendable({ type, ...content }) {
  const { graph, motion } = content;
  if (graph?.smiles) return { type, graph: { smiles: graph.smiles } };
  if (motion?.features) return { type, motion: { fps: motion.fps, features: motion.features } };
  return { type, ...content };
}
