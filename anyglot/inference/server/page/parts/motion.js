// A skeleton that moves, in three dimensions, on a canvas. Drag or the arrow keys turn it.

import { calm, h, iconButton, progress, setIcon } from "../dom.js";
import { frame, saveText } from "./frame.js";
import { Camera, followed, sizeOf } from "./camera.js";

const REACH = 5; // lines of the floor on each side

/** @param {{fps, parents: number[], joints: number[][][]}} motion joints: [frames, joints, 3], y up; null: not seen */
export function motionView(motion) {
  if (motion.joints?.length) return new MotionView(motion).element;
  const frames = motion.features?.length ?? 0;
  return frame("motion", h("p.text.plain", {}, "No skeleton is known for this motion."), { note: `${frames} frames` });
}

class MotionView {
  constructor(motion) {
    const { fps, parents, joints } = motion;
    Object.assign(this, { fps, parents, joints, frame: 0, drawn: 0, playing: !calm(), visible: false });
    this.size = sizeOf(joints);
    this.middle = followed(joints, Math.round(fps));
    this.camera = new Camera(this.size.flat);
    const words = "A skeleton that moves; the arrow keys turn it";
    this.canvas = h("canvas", { tabindex: 0, role: "img", "aria-label": words });
    this.button = iconButton(...this.look(), () => this.play(!this.playing));
    this.seek = h("input", { type: "range", min: 0, max: joints.length - 1, value: 0, "aria-label": "Frame" });
    this.seek.addEventListener("input", () => this.show(Number(this.seek.value)));
    this.time = h("span.time");
    const controls = h("div.controls", {}, this.button, this.seek, this.time);
    this.element = frame("motion", h("div.motion", {}, this.canvas, controls), {
      note: `${parents.length} joints`,
      save: saveText(JSON.stringify(motion), "application/json", "motion.json"),
    });
    this.element.dataset.frames = joints.length;
    this.camera.listen(this.canvas, () => this.draw());
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    new IntersectionObserver(([entry]) => this.see(entry.isIntersecting)).observe(this.canvas);
  }

  look() {
    return this.playing ? ["pause", "Pause"] : ["play", "Play"];
  }

  play(playing) {
    this.playing = playing;
    setIcon(this.button, ...this.look());
    this.run();
  }

  /** Nothing is drawn while it is out of sight. */
  see(visible) {
    this.visible = visible;
    this.run();
  }

  run() {
    cancelAnimationFrame(this.request);
    let before = performance.now();
    const step = (now) => {
      this.frame = (this.frame + (Math.max(0, now - before) / 1000) * this.fps) % this.joints.length;
      before = now;
      this.draw();
      if (this.playing && this.visible) this.request = requestAnimationFrame(step);
    };
    if (this.playing && this.visible) this.request = requestAnimationFrame(step);
  }

  show(frameNumber) {
    this.frame = frameNumber;
    if (this.playing) this.play(false);
    this.draw();
  }

  draw() {
    const { canvas, camera } = this;
    const [width, height, ratio] = [canvas.clientWidth, canvas.clientHeight, devicePixelRatio || 1];
    if (!width) return;
    if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
    if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    const at = Math.floor(this.frame);
    camera.look({ centre: this.middle[at], radius: this.size.radius, width, height });
    const style = getComputedStyle(canvas);
    if (!this.size.flat) this.drawFloor(context, style.getPropertyValue("--rest"), at);
    this.drawBody(context, style.color, at);
    this.seek.value = at;
    this.time.textContent = progress(this.frame / this.fps, this.joints.length / this.fps);
    this.element.dataset.drawn = ++this.drawn;
  }

  /** Lines a unit apart that stay where they are, so that one sees the body travel, and its shadow. */
  drawFloor(context, colour, at) {
    const { camera, size } = this;
    const gap = size.radius / 2;
    const [middleX, , middleZ] = this.middle[at];
    const [x0, z0] = [Math.round(middleX / gap), Math.round(middleZ / gap)];
    const crossing = (i, j) => [(x0 + i) * gap, size.floor, (z0 + j) * gap];
    context.strokeStyle = colour;
    context.lineWidth = 1;
    for (let i = -REACH; i <= REACH; i++) {
      context.globalAlpha = 0.9 * (1 - Math.abs(i) / (REACH + 1));
      camera.line(context, crossing(i, -REACH), crossing(i, REACH));
      camera.line(context, crossing(-REACH, i), crossing(REACH, i));
    }
    context.globalAlpha = 0.8;
    context.lineWidth = 5;
    context.lineCap = "round";
    const shadow = this.joints[at].map((joint) => joint && [joint[0], size.floor, joint[2]]);
    this.bones(shadow).forEach(([a, b]) => camera.line(context, a, b));
    context.globalAlpha = 1;
  }

  /** Far bones first, thinner and paler. */
  drawBody(context, colour, at) {
    const { camera } = this;
    const depth = ([a, b]) => camera.depth(a) + camera.depth(b);
    context.strokeStyle = context.fillStyle = colour;
    context.lineCap = "round";
    for (const bone of this.bones(this.joints[at]).sort((one, other) => depth(other) - depth(one))) {
      const near = Math.min(1, Math.max(0, 0.5 - depth(bone) / (2.4 * this.size.radius)));
      context.globalAlpha = 0.5 + 0.5 * near;
      context.lineWidth = 3 + 3.5 * near;
      camera.line(context, ...bone);
    }
    context.globalAlpha = 1;
  }

  /** Pairs of joined points. A joint that is unseen has no bones. */
  bones(points) {
    const pairs = this.parents.map((parent, joint) => [points[joint], points[parent]]);
    return pairs.filter(([one, other]) => one && other);
  }
}
