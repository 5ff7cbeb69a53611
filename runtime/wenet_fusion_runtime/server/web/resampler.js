// Changes the sample rate of a stream. Knows no audio device and no page.

const ZERO_CROSSINGS = 48;      // of the filter on each side, at the lower of the two rates
const ATTENUATION = 80;         // dB, of everything above half the lower rate
const KAISER_BETA = 0.1102 * (ATTENUATION - 8.7);
// Width of the filter's slope, relative to the lower rate; it ends at half that rate, so that nothing folds back.
const SLOPE = (ATTENUATION - 8) / (2.285 * 2 * Math.PI * 2 * ZERO_CROSSINGS);

/**
 * Windowed-sinc interpolation for a ratio of whole rates, any cut of the input gives the same output.
 * Output sample i stands at time i / outputRate, so nothing is delayed; n inputs give ceil(n * outputRate / inputRate).
 */
export class Resampler {
  constructor(inputRate, outputRate) {
    const divisor = greatestCommonDivisor(inputRate, outputRate);
    this.step = inputRate / divisor;       // between outputs, in input samples / phases
    this.phases = outputRate / divisor;
    this.reach = inputRate === outputRate ? 0 : Math.ceil(ZERO_CROSSINGS * Math.max(1, inputRate / outputRate)) + 1;
    this.filters = inputRate === outputRate ? [new Float32Array([1])] : makeFilters(inputRate, outputRate, this);
    this.buffer = new Float32Array(this.reach);    // zeros before the first sample
    this.position = 0;                             // of the next output, in input samples * phases since the buffer's start
  }

  /** The next samples in, those that are complete out. */
  process(samples) {
    const joined = new Float32Array(this.buffer.length + samples.length);
    joined.set(this.buffer);
    joined.set(samples, this.buffer.length);
    const width = 2 * this.reach + 1;
    const last = (joined.length - width + 1) * this.phases;    // an output at or after it needs what has not come yet
    const output = new Float32Array(Math.max(0, Math.ceil((last - this.position) / this.step)));
    for (let index = 0; index < output.length; index++, this.position += this.step) {
      const start = Math.floor(this.position / this.phases);
      const filter = this.filters[this.position % this.phases];
      let sum = 0;
      for (let tap = 0; tap < width; tap++) sum += joined[start + tap] * filter[tap];
      output[index] = sum;
    }
    const used = Math.min(Math.floor(this.position / this.phases), joined.length);
    this.position -= used * this.phases;
    this.buffer = joined.slice(used);
    return output;
  }

  /** What is left once no more samples come. */
  flush() {
    return this.process(new Float32Array(this.reach));
  }
}

/** filters[phase][tap]: weights of the inputs around an output that lies phase / phases after an input. */
function makeFilters(inputRate, outputRate, { phases, reach }) {
  const lower = Math.min(inputRate, outputRate) / inputRate;
  const cutoff = lower * (1 - SLOPE);            // middle of the slope, in units of half the input rate
  const halfWidth = ZERO_CROSSINGS / lower;      // in input samples
  return Array.from({ length: phases }, (_, phase) => {
    const filter = Float64Array.from({ length: 2 * reach + 1 }, (_, tap) => {
      const time = tap - reach - phase / phases;
      return Math.abs(time) >= halfWidth ? 0 : sinc(cutoff * time) * kaiser(time / halfWidth);
    });
    const sum = filter.reduce((total, weight) => total + weight, 0);
    return Float32Array.from(filter, (weight) => weight / sum);
  });
}

function sinc(x) {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
}

/** Kaiser's window at x in -1 to 1, up to a factor. */
function kaiser(x) {
  return bessel(KAISER_BETA * Math.sqrt(1 - x * x)) / bessel(KAISER_BETA);
}

/** The modified Bessel function I0. */
function bessel(x) {
  let sum = 1;
  for (let term = 1, k = 1; term > 1e-12 * sum; k++) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

function greatestCommonDivisor(a, b) {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}
