import { h } from "../dom.js";
import { frame } from "./frame.js";

/** A card: the thing's initials on a tile whose colour is its own, its title, its id. */
export function itemView({ id, title }) {
  const name = title || id;
  const initials = name.match(/(?<![\p{L}\p{N}'’])[\p{L}\p{N}]/gu) ?? [];
  const tile = h("div.tile", { "aria-hidden": "true" }, initials.slice(0, 2).join("").toUpperCase());
  tile.style.setProperty("--hue", hue(id));
  return frame("item", h("div.item-card", {}, tile, h("strong", {}, name)), { note: id });
}

function hue(text) {
  return [...text].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) % 360, 7);
}
