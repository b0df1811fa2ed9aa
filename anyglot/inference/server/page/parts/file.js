import { bytesOf, h } from "../dom.js";
import { frame } from "./frame.js";

/** A medium that this page cannot show: to be saved. @param {{modality: string, data: string}} file data: base64 */
export function fileView({ modality, data }) {
  const size = `${bytesOf(data).length.toLocaleString("en")} bytes`;
  const save = { url: `data:application/octet-stream;base64,${data}`, name: modality };
  return frame(modality, h("p.text.plain", {}, "A file of a medium that is not shown here."), { note: size, save });
}
