// Files and typed structures, made into content parts of a message.

import { decode, wav } from "./sound.js";

export const ACCEPTED = "image/*,audio/*,video/*,.json,.npy,.bvh,.smi";

/**
 * The content part that a file is.
 * @param {File} file a picture, a sound, a video, a motion (.npy or .bvh, or .json as this page saves it), or a
 *   molecule (.smi)
 * @throws {Error} it is none of these, or broken; the message is for people
 */
export async function partOf(file) {
  const kind = file.type.split("/")[0];
  if (kind === "image") return { type: "image_url", image_url: { url: await dataUrl(file) } };
  if (kind === "video") return { type: "video_url", video_url: { url: await dataUrl(file) } };
  if (kind === "audio") return { type: "audio_url", audio_url: { url: await dataUrl(await asWav(file)) } };
  if (file.name.endsWith(".json")) return { type: "motion", motion: motionOf(file.name, await file.text()) };
  if (/\.(npy|bvh)$/.test(file.name)) return { type: "file", file: { modality: "motion", data: await base64(file) } };
  if (file.name.endsWith(".smi")) return moleculeOf((await file.text()).trim().split(/\s/)[0]);
  throw new Error(`${file.name}: not a picture, a sound, a video, a motion (.npy, .bvh, .json) or a molecule (.smi)`);
}

export function moleculeOf(smiles) {
  return { type: "graph", graph: { smiles } };
}

export function itemOf(id) {
  return { type: "item", item: { id } };
}

/** Sounds go as wav, which every server reads; what else a browser plays (m4a, webm) it turns into that. */
async function asWav(file) {
  if (/^audio\/(x-)?wav$/.test(file.type)) return new File([file], file.name, { type: "audio/wav" });
  let sound;
  try {
    sound = await decode(new Uint8Array(await file.arrayBuffer()));
  } catch {
    throw new Error(`${file.name}: this browser cannot read that sound`);
  }
  return new File([wav(sound.samples, sound.sampleRate)], file.name, { type: "audio/wav" });
}

function motionOf(name, text) {
  let motion;
  try {
    motion = JSON.parse(text);
  } catch {
    throw new Error(`${name}: not JSON`);
  }
  const { fps, parents = [], joints = [], features } = motion ?? {};
  const isFrame = (frame) => frame?.length === parents.length && frame.every(isPoint);
  const drawn = Array.isArray(joints) && joints.every(isFrame);
  if (!(fps > 0) || !drawn || !(joints.length || features?.length)) {
    throw new Error(`${name}: a motion is {"fps", "parents": [...], "joints": [[[x, y, z], ...], ...]}`);
  }
  return { fps, parents, joints, ...(features && { features }) };
}

function isPoint(joint) {
  return joint === null || joint?.length === 3;
}

async function base64(file) {
  const url = await dataUrl(file);
  return url.slice(url.indexOf(",") + 1);
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.addEventListener("error", () => reject(new Error(`${file.name}: cannot be read`)));
    reader.readAsDataURL(file);
  });
}
