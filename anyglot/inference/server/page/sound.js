// Sound without a player element: what streams in is heard at once, and any file becomes a wave.

export const BINS_A_SECOND = 50; // loudness values that a drawn wave is made of

const LEAD = 0.06; // seconds between the first samples and their sound, so that the next chunk is there in time

/** Plays 16-bit samples as they arrive, one chunk right after the other. */
export class LivePlayer {
  /** @param {number} sampleRate of the samples. */
  constructor(sampleRate) {
    this.context = new AudioContext({ sampleRate });
    this.end = 0; // when, in the context's time, the last sample so far sounds
    this.pieces = []; // [{start, offset, duration}] in seconds: chunk began sounding at start, offset into the sound
    this.samples = 0;
  }

  push(samples) {
    const buffer = this.context.createBuffer(1, samples.length, this.context.sampleRate);
    buffer.copyToChannel(samples, 0);
    const source = this.context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.context.destination);
    const start = Math.max(this.end, this.context.currentTime + LEAD);
    source.start(start);
    this.pieces.push({ start, offset: this.samples / this.context.sampleRate, duration: buffer.duration });
    this.end = start + buffer.duration;
    this.samples += samples.length;
  }

  /** Seconds of the sound that were heard. */
  get position() {
    const now = this.context.currentTime;
    const piece = this.pieces.findLast(({ start }) => start <= now);
    return piece ? piece.offset + Math.min(now - piece.start, piece.duration) : 0;
  }

  get sounding() {
    return this.context.state !== "closed" && this.context.currentTime < this.end;
  }

  stop() {
    if (this.context.state !== "closed") this.context.close();
  }
}

/** Samples in [-1, 1] of little-endian 16-bit bytes. */
export function samplesOf(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Float32Array.from({ length: bytes.byteLength >> 1 }, (_, index) => view.getInt16(2 * index, true) / 32768);
}

/** Loudest sample of each 1/50 s. */
export function peaksOf(samples, sampleRate) {
  const size = Math.max(1, Math.round(sampleRate / BINS_A_SECOND));
  const peaks = [];
  for (let start = 0; start < samples.length; start += size) {
    let peak = 0;
    for (const sample of samples.subarray(start, start + size)) peak = Math.max(peak, Math.abs(sample));
    peaks.push(peak);
  }
  return peaks;
}

/** What an audio file holds, mixed to one channel. Rejects where the browser cannot read it. */
export async function decode(bytes) {
  const buffer = await new OfflineAudioContext(1, 1, 48000).decodeAudioData(bytes.slice().buffer);
  const channels = Array.from({ length: buffer.numberOfChannels }, (_, index) => buffer.getChannelData(index));
  const samples = channels[0].map((_, at) => channels.reduce((sum, channel) => sum + channel[at], 0) / channels.length);
  return { samples, sampleRate: buffer.sampleRate };
}

/** A 16-bit mono .wav file of samples in [-1, 1]. */
export function wav(samples, sampleRate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (at, letters) => [...letters].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); // size of the format that follows
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, sampleRate, true);
  view.setUint32(28, 2 * sampleRate, true); // bytes a second
  view.setUint16(32, 2, true); // bytes of one frame
  view.setUint16(34, 16, true); // bits of one sample
  text(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((sample, i) => view.setInt16(44 + 2 * i, Math.max(-1, Math.min(1, sample)) * 32767, true));
  return new Uint8Array(view.buffer);
}
