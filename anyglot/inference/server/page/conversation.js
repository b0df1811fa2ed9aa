// The turns of a chat: what was said, what was answered, and what of it the next request carries.

import { complete } from "./api.js";
import { h } from "./dom.js";
import { keep, take } from "./kept.js";
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
    this.turns = []; // [{user: parts, said: its element, reply: Reply | undefined, settings: the reply's}]
    this.cut = false; // whether earlier turns were too large to be kept when the page was loaded again
    this.model = ""; // to be asked
    addEventListener("pagehide", () => this.keep()); // with what is just being written
  }

  /** Say something, and show what is answered. */
  async say(parts, settings) {
    await this.answer(this.begin(parts), settings);
  }

  async answer(turn, settings) {
    this.stop();
    turn.reply?.element.remove();
    const messages = [...this.before(turn), { role: "user", content: turn.user.map(sendable) }];
    const reply = this.reply(turn, settings);
    const aborter = (this.aborter = new AbortController());
    this.onBusy(true);
    let failure;
    try {
      const request = { model: this.model, messages, ...settings };
      for await (const chunk of complete(request, aborter.signal)) reply.take(chunk);
    } catch (error) {
      failure = error;
    } finally {
      if (this.aborter === aborter) this.onBusy(false);
    }
    reply.close(failure);
    this.keep();
  }

  /** Show what is said, as a turn that is not answered yet. */
  begin(parts) {
    const turn = { user: parts, said: h("article.said", { "aria-label": "You" }, ...parts.map(viewOf)) };
    this.turns.push(turn);
    this.log.append(turn.said);
    return turn;
  }

  /** The place of a turn's reply, empty yet. */
  reply(turn, settings) {
    const again = () => this.answer(turn, { ...settings, seed: settings.seed + 1 });
    turn.reply = new Reply({ seed: settings.seed, again });
    turn.settings = settings;
    turn.said.after(turn.reply.element);
    return turn.reply;
  }

  keep() {
    keep(this.turns.map(({ user, settings, reply }) => ({ user, settings, reply: reply?.kept })), this.cut);
  }

  /** Show the conversation that was kept. @returns {boolean} whether there was one */
  restore() {
    const { cut, turns } = take();
    this.cut = cut;
    if (cut) this.log.append(h("p.missing", { role: "note" }, "What was said before was too large to be kept."));
    for (const { user, settings, reply } of turns) {
      const turn = this.begin(user);
      if (reply) this.reply(turn, settings).restore(reply);
    }
    this.keep();
    return turns.length > 0;
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
    this.cut = false;
    this.log.replaceChildren();
    this.keep();
  }
}

/** A part as requests carry it, without how it is drawn where that is not needed to read it. */
function sendable({ type, ...content }) {
  const { graph, motion } = content;
  if (graph?.smiles) return { type, graph: { smiles: graph.smiles } };
  if (motion?.features) return { type, motion: { fps: motion.fps, features: motion.features } };
  return { type, ...content };
}
