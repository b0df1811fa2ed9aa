// What all media have around them: whose medium it is, a word on its size, and a way to keep it.

import { h, icon } from "../dom.js";
import { label, look } from "../modalities.js";

/**
 * @param {string} modality
 * @param {Element} body the medium itself
 * @param {{note?, name?, save?: {url, name}}} [about] note: its size or length; name: of the medium; save: as what file
 */
export function frame(modality, body, { note = "", name = label(modality), save } = {}) {
  return h(
    `figure.frame.${look(modality)}`,
    { "data-modality": modality },
    body,
    h(
      "figcaption",
      {},
      icon(look(modality)),
      h("span.name", {}, name),
      h("span.note", {}, note),
      save && saveLink(save.url, save.name),
    ),
  );
}

/** Replace the word on its size, once that is known. */
export function setNote(element, note) {
  element.querySelector(".note").textContent = note;
}

export function saveLink(url, name) {
  return h("a.round.save", { href: url, download: name, "aria-label": `Save ${name}`, title: "Save" }, icon("save"));
}

/** A link to what is not a file yet. */
export function saveText(text, type, name) {
  return { url: `data:${type};charset=utf-8,${encodeURIComponent(text)}`, name };
}
