// Puts the page together.

import { models } from "./api.js";
import { Composer } from "./composer.js";
import { Conversation } from "./conversation.js";
import { h, icon, setIcon } from "./dom.js";
import { label, look } from "./modalities.js";
import { Settings } from "./settings.js";

for (const button of document.querySelectorAll("[data-icon]")) {
  button.prepend(icon(button.dataset.icon));
  button.title = button.ariaLabel ?? "";
}

const find = (selector) => document.querySelector(selector);
const scroller = find("main");
const settings = new Settings(find("#settings form"));
const conversation = new Conversation(find("#log"), (running) => composer.busy(running));

const composer = new Composer(find("#composer"), {
  ready() {
    if (!conversation.model) {
      composer.tell("No answer from the server yet; trying again. Send once more.");
      meet();
      return false;
    }
    if (settings.valid()) return true;
    find("#settings").showPopover();
    settings.form.reportValidity();
    return false;
  },
  send(parts, to) {
    find("#welcome").hidden = true;
    following = true;
    conversation.say(parts, settings.request(to));
  },
  stop: () => conversation.stop(),
});

/** Which model is served, and what it reads and writes. */
async function meet() {
  try {
    const [served] = await models();
    conversation.model = served.id;
    find("#model").textContent = served.id;
    offer(served.modalities);
    composer.tell("");
  } catch (error) {
    composer.tell(error.message);
  }
}

function offer(modalities) {
  composer.offer(modalities);
  const tile = (name) => {
    const attributes = { type: "button", onclick: () => composer.choose(name) };
    return h(`button.tile.${look(name)}`, attributes, icon(look(name)), label(name));
  };
  find("#tiles").replaceChildren(...modalities.map(tile));
}

// The newest line stays in sight until the reader scrolls away from it.
let following = true;
const down = find("#down");
let height = 0; // that the reader was at last
const atEnd = () => scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 80;
const toEnd = () => scroller.scrollTo({ top: scroller.scrollHeight });
scroller.addEventListener("scroll", () => {
  following = atEnd() || (following && scroller.scrollTop >= height); // growing is not scrolling away
  height = scroller.scrollTop;
  down.hidden = following;
});
new ResizeObserver(() => (following ? toEnd() : (down.hidden = atEnd()))).observe(find("#log"));
down.addEventListener("click", toEnd);

find("#new").addEventListener("click", () => {
  conversation.clear();
  find("#welcome").hidden = false;
});

// Light, dark, or as the system is.
const THEMES = { "": "As the system is", light: "Light", dark: "Dark" };
const themeButton = find("#theme");
function wear(theme) {
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("theme", theme);
  setIcon(themeButton, `theme-${theme || "system"}`, `Colours: ${THEMES[theme]}`);
}
themeButton.addEventListener("click", () => {
  const themes = Object.keys(THEMES);
  wear(themes[(themes.indexOf(document.documentElement.dataset.theme) + 1) % themes.length]);
});
wear(localStorage.getItem("theme") ?? "");

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !find("dialog[open], :popover-open")) conversation.stop();
});

meet();
find("#welcome").hidden = conversation.restore();
