// Where a message is written: words, files, a recording, and the medium to be answered in.

import { ACCEPTED, itemOf, moleculeOf, partOf } from "./attachments.js";
import { clock, h, icon, iconButton, setIcon } from "./dom.js";
import { label, look } from "./modalities.js";
import { viewOf } from "./parts/part.js";
import { canRecord, record } from "./recorder.js";

export class Composer {
  /**
   * @param {HTMLFormElement} form as in index.html
   * @param {{ready: () => boolean, send: (parts: object[], to: string) => void, stop: () => void}} on
   */
  constructor(form, on) {
    const find = (selector) => form.querySelector(selector);
    Object.assign(this, { form, on, parts: new Map(), running: false, endRecording: null });
    this.text = find("textarea");
    this.shelf = find(".shelf");
    this.notice = find(".notice");
    this.button = find(".send");
    this.microphone = find(".microphone");
    this.choices = find(".choices");
    this.menu = find(".menu");
    this.files = find("input[type=file]");
    this.files.accept = ACCEPTED;
    form.addEventListener("submit", (event) => this.submit(event));
    this.text.addEventListener("keydown", (event) => this.key(event));
    this.text.addEventListener("input", () => this.update());
    this.text.addEventListener("paste", (event) => this.attach(event.clipboardData.files));
    this.files.addEventListener("change", () => this.attach(this.files.files));
    this.microphone.addEventListener("click", () => this.record());
    find(".add-file").addEventListener("click", () => this.files.click());
    find(".add-typed").addEventListener("click", () => this.addTyped());
    this.menu.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.target.tagName !== "INPUT") return;
      event.preventDefault(); // it would send the message
      this.addTyped();
    });
    this.acceptDrops(document.body);
    if (!canRecord) {
      this.microphone.disabled = true;
      this.microphone.title = "Browsers allow the microphone over https and on localhost only";
    }
    this.offer([]);
    this.update();
  }

  /** The media that the model reads and writes. */
  offer(modalities) {
    const choice = (value, name, drawing) => {
      const radio = h("input", { type: "radio", name: "to", value, checked: value === "" });
      return h(`label.choice.${drawing}`, { title: name }, radio, icon(drawing), h("span", {}, name));
    };
    const named = modalities.map((name) => choice(name, label(name), look(name)));
    this.choices.replaceChildren(choice("", "Any", "any"), ...named);
    const typed = { smiles: "graph", "item-id": "item" };
    for (const [field, modality] of Object.entries(typed)) {
      this.form.elements[field].parentElement.hidden = !modalities.includes(modality);
    }
    this.menu.querySelector(".add-typed").hidden = !Object.values(typed).some((name) => modalities.includes(name));
  }

  /** Answer in this medium. */
  choose(modality) {
    this.form.elements.to.value = modality;
    this.text.focus();
  }

  /** A reply is being written (then the button stops it), or not. */
  busy(running) {
    this.running = running;
    setIcon(this.button, running ? "stop" : "send", running ? "Stop" : "Send");
    this.update();
  }

  key(event) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) this.submit(event);
  }

  submit(event) {
    event.preventDefault();
    if (this.running) {
      if (event.type === "submit") this.on.stop(); // Enter in the middle of a reply does not cut it off
      return;
    }
    const text = this.text.value.trim();
    const parts = [...this.parts.values(), ...(text ? [{ type: "text", text }] : [])];
    if (!parts.length || !this.on.ready()) return;
    this.parts.clear();
    this.shelf.replaceChildren();
    this.text.value = "";
    this.tell("");
    this.update();
    this.on.send(parts, this.form.elements.to.value);
  }

  async attach(files) {
    for (const file of [...files]) {
      try {
        this.put(await partOf(file), file.name);
      } catch (error) {
        this.tell(error.message);
      }
    }
    this.files.value = "";
  }

  put(part, name) {
    const entry = h("div.attached", { title: name }, viewOf(part));
    const remove = () => {
      this.parts.delete(entry);
      entry.remove();
      this.update();
    };
    entry.append(iconButton("close", `Remove ${name}`, remove));
    this.parts.set(entry, part);
    this.shelf.append(entry);
    this.tell("");
    this.update();
    this.text.focus();
  }

  /** The molecule or item that was typed into the menu. */
  addTyped() {
    const [molecule, item] = ["smiles", "item-id"].map((name) => this.form.elements[name]);
    if (molecule.value.trim()) this.put(moleculeOf(molecule.value.trim()), molecule.value.trim());
    if (item.value.trim()) this.put(itemOf(item.value.trim()), item.value.trim());
    molecule.value = item.value = "";
    this.menu.hidePopover();
  }

  async record() {
    if (this.endRecording) {
      const end = this.endRecording;
      this.endRecording = null;
      clearInterval(this.ticking);
      this.tell("");
      this.microphone.classList.remove("recording");
      setIcon(this.microphone, "microphone", "Record");
      try {
        await this.attach([await end()]);
      } catch (error) {
        this.tell(`No recording: ${error.message}`); // too short to be decoded
      }
      return;
    }
    this.microphone.disabled = true; // a second click while the browser asks would begin a second recording
    try {
      this.endRecording = await record();
    } catch (error) {
      this.tell(`No recording: ${error.message}`);
      return;
    } finally {
      this.microphone.disabled = false;
    }
    const began = performance.now();
    const tick = () => this.tell(`Recording ${clock((performance.now() - began) / 1000)}`);
    this.ticking = setInterval(tick, 500);
    tick();
    this.microphone.classList.add("recording");
    setIcon(this.microphone, "stop", "End the recording");
  }

  acceptDrops(area) {
    const over = (on) => document.body.classList.toggle("dropping", on);
    area.addEventListener("dragover", (event) => {
      event.preventDefault();
      over(event.dataTransfer.types.includes("Files"));
    });
    area.addEventListener("dragleave", (event) => event.relatedTarget === null && over(false));
    area.addEventListener("drop", (event) => {
      event.preventDefault();
      over(false);
      this.attach(event.dataTransfer.files);
    });
  }

  /** A line above the message: what went wrong, or what goes on. */
  tell(text) {
    this.notice.textContent = text;
    this.notice.hidden = !text;
  }

  update() {
    this.text.style.height = "auto";
    this.text.style.height = `${this.text.scrollHeight}px`;
    this.button.disabled = !this.running && !this.text.value.trim() && !this.parts.size;
  }
}
