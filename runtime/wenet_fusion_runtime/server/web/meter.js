// Draws the loudness of the last seconds.

const BAR = 3;               // width of a bar, pixels
const GAP = 2;               // between bars, pixels
const FLOOR = -54;           // lowest loudness shown, dB relative to full scale
const SMALLEST = 0.08;       // height of a bar in silence, relative to the meter

/** A meter with one bar per block of samples, the newest on the right. */
export class Meter {
  constructor(canvas) {
    this.canvas = canvas;
    this.levels = [];
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /** Add the next block, an Int16Array. */
  add(samples) {
    this.levels.push(loudness(samples));
    this.draw();
  }

  clear() {
    this.levels = [];
    this.draw();
  }

  draw() {
    const { canvas } = this;
    const scale = devicePixelRatio;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    canvas.width = width * scale;
    canvas.height = height * scale;
    const count = Math.max(1, Math.floor((width + GAP) / (BAR + GAP)));
    this.levels = this.levels.slice(-count);
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    const style = getComputedStyle(canvas);
    for (let index = 0; index < count; index++) {
      const level = this.levels[index - count + this.levels.length];
      const size = Math.max(SMALLEST, level ?? 0) * height;
      pen.fillStyle = level === undefined ? style.getPropertyValue("--line") : style.color;
      pen.beginPath();
      pen.roundRect(index * (BAR + GAP), (height - size) / 2, BAR, size, BAR / 2);
      pen.fill();
    }
  }
}

/** Return the root mean square on a decibel scale, 0 to 1. */
function loudness(samples) {
  const power = samples.reduce((sum, sample) => sum + sample * sample, 0) / Math.max(1, samples.length) / 32768 ** 2;
  return Math.min(1, Math.max(0, 1 - (10 * Math.log10(power + 1e-12)) / FLOOR));
}
