// What the media are called here, and which content part of a message carries which.

const KNOWN = {
  text: "Text",
  image: "Picture",
  speech: "Speech",
  video: "Video",
  motion: "Motion",
  graph: "Graph",
  item: "Item",
};

const CARRIED_BY = { image_url: "image", audio_url: "speech", input_audio: "speech", video_url: "video" };

/** A name for people; that of a modality which this page does not know is its own. */
export function label(modality) {
  return KNOWN[modality] ?? modality;
}

/** The icon in icons.svg, and the colour in style.css, of a modality. */
export function look(modality) {
  return modality in KNOWN ? modality : "other";
}

/** The modality of a content part. */
export function modalityOf(part) {
  return part.type === "file" ? part.file.modality : (CARRIED_BY[part.type] ?? part.type);
}
