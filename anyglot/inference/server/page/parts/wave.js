// A sound drawn as bars, the part that was heard in colour.

const BAR = 3; // pixels, and as much again between bars
const STEP = 5;

/**
 * @param {HTMLCanvasElement} canvas its CSS colour is the heard part's, its custom property --rest the other's
 * @param {number[]} peaks loudness from 0 to 1, evenly over the sound
 * @param {number} heard from 0 to 1
 */
export function drawWave(canvas, peaks, heard) {
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  const ratio = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
  if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  const style = getComputedStyle(canvas);
  const [on, off] = [style.color, style.getPropertyValue("--rest")];
  const bars = Math.max(1, Math.floor(width / STEP));
  const loudest = Math.max(0.05, ...peaks);
  for (let bar = 0; bar < bars; bar++) {
    const from = Math.floor((bar * peaks.length) / bars);
    const to = Math.max(from + 1, Math.floor(((bar + 1) * peaks.length) / bars));
    const peak = peaks.length ? Math.max(...peaks.slice(from, to)) / loudest : 0;
    const tall = Math.max(BAR, peak * (height - 2));
    context.fillStyle = (bar + 0.5) / bars <= heard ? on : off;
    context.beginPath();
    context.roundRect(bar * STEP, (height - tall) / 2, BAR, tall, BAR / 2);
    context.fill();
  }
}
