import { calm, h } from "../dom.js";
import { frame, setNote } from "./frame.js";

const SMALL = 128; // pixels: enlarged as squares

export function videoView(url) {
  const video = h("video", { src: url, controls: true, loop: true, playsinline: true, preload: "auto" });
  video.muted = true; // an attribute would not do: browsers start only what is muted by itself
  video.autoplay = !calm();
  const name = url.startsWith("data:video/mp4") ? "video.mp4" : "video.webm";
  const element = frame("video", video, { save: { url, name } });
  video.addEventListener("loadedmetadata", () => {
    video.classList.toggle("small", Math.max(video.videoWidth, video.videoHeight) <= SMALL);
    const length = Number.isFinite(video.duration) ? ` · ${video.duration.toFixed(1)} s` : "";
    setNote(element, `${video.videoWidth} × ${video.videoHeight}${length}`);
  });
  video.addEventListener("error", () => setNote(element, "this browser cannot play it"));
  return element;
}
