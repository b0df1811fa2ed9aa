// Where a moving body is, and how it looks from a place around it.

const DISTANCE = 4.2; // of the eye, in radii of the body

/**
 * How much room the body needs.
 * @returns {{radius: number, floor: number, flat: boolean}} radius: half of the largest extent of a frame;
 *   floor: the lowest y; flat: it has no depth, as key points in a picture
 */
export function sizeOf(joints) {
  const seen = joints.map((frame) => frame.filter(Boolean)).filter((frame) => frame.length);
  const largest = (axis) => Math.max(0, ...seen.map((frame) => range(frame, axis)).map(([low, high]) => high - low));
  const [x, y, z] = [0, 1, 2].map(largest);
  return { radius: Math.max(x, y, z) / 2 || 1, floor: range(seen.flat(), 1)[0], flat: z < 0.02 * Math.max(x, y) };
}

/** Lowest and highest coordinate of points. */
function range(points, axis) {
  const widen = ([low, high], point) => [Math.min(low, point[axis]), Math.max(high, point[axis])];
  return points.reduce(widen, [Infinity, -Infinity]);
}

function mean(points, axis) {
  return points.reduce((sum, point) => sum + point[axis], 0) / points.length;
}

/** For each frame the point to look at: the body's middle, over `window` frames each way so that the eye stays calm. */
export function followed(joints, window) {
  let last = [0, 0, 0];
  const middles = joints.map((frame) => {
    const points = frame.filter(Boolean);
    if (points.length) last = [0, 1, 2].map((axis) => mean(points, axis));
    return last;
  });
  const [low, high] = range(joints.flat().filter(Boolean), 1);
  return middles.map((_, at) => {
    const around = middles.slice(Math.max(0, at - window), at + window + 1);
    return [mean(around, 0), (low + high) / 2, mean(around, 2)];
  });
}

/** Perspective from a place that the reader chooses by dragging. */
export class Camera {
  constructor(flat) {
    [this.turn, this.tilt] = flat ? [0, 0] : [0.55, 0.22];
  }

  look({ centre, radius, width, height }) {
    Object.assign(this, { centre, radius, width, height });
    this.scale = (0.84 * Math.min(width, height)) / (2 * radius);
  }

  /** The point as seen: right, up, and away from the reader, in its own units from the centre. */
  seen([x, y, z]) {
    const [dx, dy, dz] = [x - this.centre[0], y - this.centre[1], z - this.centre[2]];
    const [sine, cosine] = [Math.sin(this.turn), Math.cos(this.turn)];
    const [tiltSine, tiltCosine] = [Math.sin(this.tilt), Math.cos(this.tilt)];
    const along = -dx * sine - dz * cosine;
    return [dx * cosine - dz * sine, dy * tiltCosine + along * tiltSine, along * tiltCosine - dy * tiltSine];
  }

  depth(point) {
    return this.seen(point)[2];
  }

  line(context, from, to) {
    context.beginPath();
    for (const point of [from, to]) {
      const [right, up, away] = this.seen(point);
      const shrink = (DISTANCE * this.radius) / Math.max(0.3 * this.radius, DISTANCE * this.radius + away);
      context.lineTo(this.width / 2 + right * this.scale * shrink, this.height / 2 - up * this.scale * shrink);
    }
    context.stroke();
  }

  /** Turn by dragging and by the arrow keys; `changed` is called after each. */
  listen(canvas, changed) {
    const by = (turn, tilt) => {
      this.turn += turn;
      this.tilt = Math.max(-0.2, Math.min(Math.PI / 2, this.tilt + tilt));
      changed();
    };
    const keys = { ArrowLeft: [0.15, 0], ArrowRight: [-0.15, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] };
    canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
    canvas.addEventListener("pointermove", (event) => {
      if (event.buttons) by(-event.movementX / 120, event.movementY / 160);
    });
    canvas.addEventListener("keydown", (event) => {
      if (!(event.key in keys)) return;
      event.preventDefault();
      by(...keys[event.key]);
    });
  }
}
