// Files and typed structures, made into content parts of a message.

import { decode, wav } from "./sound.js";

export const ACCEPTED = "image/*,audio/*,video/*,.json,.smi";

/**
 * The content part that a file is.
 * @param {File} file a picture, a sound, a video, a motion (.json: fps, parents, joints), or a molecule (.smi)
 * @throws {Error} it is none of these, or broken; the message is for people
 */
export async function partOf(file) {
  const kind = file.type.split("/")[0];
  if (kind === "image") return { type: "image_url", image_url: { url: await dataUrl(file) } };
  if (kind === "video") return { type: "video_url", video_url: { url: await dataUrl(file) } };
  if (kind === "audio") return { type: "audio_url", audio_url: { url: await dataUrl(await asWav(file)) } };
  if (file.name.endsWith(".json")) return { type: "motion", motion: motionOf(file.name, await file.text()) };
  if (file.name.endsWith(".smi")) return moleculeOf((await file.text()).trim().split(/\s/)[0]);
  throw new Error(`${file.name}: not a picture, a sound, a video, a motion (.json) or a molecule (.smi)`);
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
  const { fps, parents, joints } = motion ?? {};
  const right = fps > 0 && Array.isArray(parents) && Array.isArray(joints) && joints.length > 0 &&
    joints.every((frame) => frame?.length === parents.length && frame.every((point) => point?.length === 3));
  if (!right) throw new Error(`${name}: a motion is {"fps", "parents": [...], "joints": [[[x, y, z], ...], ...]}`);
  return { fps, parents, joints };
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.addEventListener("error", () => reject(new Error(`${file.name}: cannot be read`)));
    reader.readAsDataURL(file);
  });
}
