// The microphone.

import { decode, wav } from "./sound.js";

/** Whether this page may ask for the microphone: browsers allow it over https and on localhost only. */
export const canRecord = Boolean(navigator.mediaDevices?.getUserMedia && globalThis.MediaRecorder);

/**
 * Begin to record.
 * @returns {Promise<() => Promise<File>>} a function that ends the recording and gives it as a .wav file
 */
export async function record() {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const recorder = new MediaRecorder(stream);
  const pieces = [];
  recorder.addEventListener("dataavailable", (event) => pieces.push(event.data));
  recorder.start();
  return async () => {
    const stopped = new Promise((resolve) => recorder.addEventListener("stop", resolve, { once: true }));
    recorder.stop();
    await stopped;
    stream.getTracks().forEach((track) => track.stop());
    const { samples, sampleRate } = await decode(new Uint8Array(await new Blob(pieces).arrayBuffer()));
    return new File([wav(samples, sampleRate)], "recording.wav", { type: "audio/wav" });
  };
}
