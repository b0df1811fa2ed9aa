// Speech: heard while it is being written, and a player with its wave once it is whole.

import { bytesOf, h, iconButton, progress, setIcon } from "../dom.js";
import { LivePlayer, decode, peaksOf, samplesOf } from "../sound.js";
import { frame, saveLink } from "./frame.js";
import { drawWave } from "./wave.js";

/** `chunk` any number of times, then `ready`; or `ready` alone, for speech that is there already. */
export class SpeechView {
  constructor() {
    this.live = null;
    this.peaks = [];
    this.audio = h("audio", { preload: "metadata" });
    this.button = iconButton("play", "Play", () => this.toggle());
    this.canvas = h("canvas", { "aria-hidden": "true" });
    const range = { type: "range", min: 0, max: 1, step: "any", value: 0 };
    this.seek = h("input", { ...range, "aria-label": "Position in the speech" });
    this.seek.addEventListener("input", () => this.moveTo(Number(this.seek.value)));
    this.time = h("span.time", {}, "");
    const wave = h("div.wave", {}, this.canvas, this.seek);
    this.element = frame("speech", h("div.speech", {}, this.button, wave, this.time, this.audio));
    this.audio.addEventListener("error", () => (this.time.textContent = "cannot be played here"));
    for (const event of ["loadedmetadata", "play", "pause", "ended", "seeked"]) {
      this.audio.addEventListener(event, () => this.follow());
    }
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  /** The next samples of speech that is still being written: base64 of little-endian 16-bit mono. */
  chunk(sampleRate, pcm16) {
    const samples = samplesOf(bytesOf(pcm16));
    this.live ??= new LivePlayer(sampleRate);
    if (!this.stopped) this.live.push(samples);
    this.peaks.push(...peaksOf(samples, sampleRate));
    this.element.dataset.scheduled = this.live.samples;
    this.element.classList.add("live");
    this.follow();
  }

  /** The whole of it, as a data: URL. */
  ready(url) {
    this.audio.src = url;
    this.element.querySelector("figcaption").append(saveLink(url, "speech.wav"));
    this.drawn = decode(bytesOf(url.slice(url.indexOf(",") + 1))).then(
      ({ samples, sampleRate }) => {
        this.peaks = peaksOf(samples, sampleRate);
        this.draw();
      },
      () => {}, // the player says itself what it cannot play; there is merely no wave then
    );
    return this;
  }

  /** No more of it will come. */
  abandon() {
    this.silence();
    this.element.classList.remove("live");
  }

  toggle() {
    if (this.live?.sounding) this.silence();
    else if (this.audio.paused) this.audio.play();
    else this.audio.pause();
    this.follow();
  }

  moveTo(share) {
    if (!this.audio.duration) return;
    if (this.live?.sounding) this.silence();
    this.audio.currentTime = share * this.audio.duration;
    this.draw();
  }

  /** The player goes on where the streamed sound was stopped. */
  silence() {
    if (!this.live) return;
    this.stopped = true;
    this.audio.currentTime = this.live.position;
    this.live.stop();
  }

  get playing() {
    return Boolean(this.live?.sounding) || !this.audio.paused;
  }

  /** Draw until it is silent. */
  follow() {
    cancelAnimationFrame(this.request);
    if (!this.element.isConnected) {
      this.silence(); // the conversation was cleared
      this.audio.pause();
    }
    this.draw();
    if (this.playing) {
      this.request = requestAnimationFrame(() => this.follow());
    } else if (this.audio.src && this.live) {
      this.live.stop(); // an open context holds the sound device
      this.live = null;
      this.element.classList.remove("live");
    }
  }

  draw() {
    const heard = this.live && !this.stopped ? this.live.position : this.audio.currentTime;
    const whole = this.audio.duration || (this.live ? this.live.samples / this.live.context.sampleRate : 0);
    const label = this.playing ? "Pause" : "Play";
    if (this.button.title !== label) setIcon(this.button, label.toLowerCase(), label);
    this.button.disabled = !this.audio.src && !this.live?.sounding;
    this.time.textContent = whole ? progress(heard, whole) : "";
    if (document.activeElement !== this.seek) this.seek.value = whole ? heard / whole : 0;
    drawWave(this.canvas, this.peaks, whole ? heard / whole : 0);
  }
}
