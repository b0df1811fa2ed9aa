import { h } from "../dom.js";
import { frame, setNote } from "./frame.js";

const SMALL = 128; // pixels: enlarged as squares, because smoothing would show what is not there

export function pictureView(url) {
  const image = h("img", { src: url, alt: "Picture" });
  const attributes = { type: "button", "aria-label": "Enlarge the picture", onclick: () => enlarge(url) };
  const suffix = url.match(/^data:image\/(\w+)/)?.[1] ?? "png";
  const save = { url, name: `picture.${suffix}` };
  const element = frame("image", h("button.picture", attributes, image), { save });
  image.addEventListener("load", () => {
    image.classList.toggle("small", Math.max(image.naturalWidth, image.naturalHeight) <= SMALL);
    setNote(element, `${image.naturalWidth} × ${image.naturalHeight}`);
  });
  image.addEventListener("error", () => setNote(element, "this browser cannot show it"));
  return element;
}

/** The picture as large as the window allows; a click or Escape closes it. */
function enlarge(url) {
  const image = h("img", { src: url, alt: "Picture" });
  const leave = { onclick: () => dialog.close(), onclose: () => dialog.remove() };
  const dialog = h("dialog.look", { "aria-label": "Picture", ...leave }, image);
  image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth <= SMALL));
  document.body.append(dialog);
  dialog.showModal();
}
