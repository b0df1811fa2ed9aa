// A content part as an element. One file per medium beside this one.

import { h } from "../dom.js";
import { modalityOf } from "../modalities.js";
import { fileView } from "./file.js";
import { frame } from "./frame.js";
import { graphView } from "./graph.js";
import { itemView } from "./item.js";
import { motionView } from "./motion.js";
import { pictureView } from "./picture.js";
import { SpeechView } from "./speech.js";
import { videoView } from "./video.js";

const VIEWS = {
  text: (part) => h("p.text", {}, part.text),
  image_url: (part) => pictureView(part.image_url.url),
  audio_url: (part) => new SpeechView().ready(part.audio_url.url).element,
  video_url: (part) => videoView(part.video_url.url),
  motion: (part) => motionView(part.motion),
  graph: (part) => graphView(part.graph),
  item: (part) => itemView(part.item),
  file: (part) => fileView(part.file),
};

/** The element that shows a content part; one of an unknown type is shown as what it says. */
export function viewOf(part) {
  return (VIEWS[part.type] ?? plain)(part);
}

/** Where the model wrote codes that stand for nothing, as of an item that is in no catalogue. */
export function emptyView(modality) {
  return frame(modality, h("p.text.plain", {}, "The model wrote codes that stand for nothing."));
}

function plain(part) {
  return frame(modalityOf(part), h("pre.plain", {}, JSON.stringify(part[part.type] ?? part, null, 1)));
}
