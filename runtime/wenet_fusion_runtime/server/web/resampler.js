// Changes the sample rate of a stream.

const ZERO_CROSSINGS = 48;      // on each side of the filter, at the lower of the two rates
const ATTENUATION = 80;         // dB, at frequencies above half the lower rate
const KAISER_BETA = 0.1102 * (ATTENUATION - 8.7);
// Width of the transition band, relative to the lower rate. The band ends at half that rate, so nothing aliases.
const SLOPE = (ATTENUATION - 8) / (2.285 * 2 * Math.PI * 2 * ZERO_CROSSINGS);

/**
 * Windowed-sinc resampler for integer rates; the output does not depend on how the input is cut.
 * Output sample i is at time i / outputRate, without delay; n inputs give ceil(n * outputRate / inputRate) outputs.
 */
export class Resampler {
  constructor(inputRate, outputRate) {
    const divisor = greatestCommonDivisor(inputRate, outputRate);
    this.step = inputRate / divisor;       // distance of two outputs, in units of 1 / phases of an input sample
    this.phases = outputRate / divisor;
    this.reach = inputRate === outputRate ? 0 : Math.ceil(ZERO_CROSSINGS * Math.max(1, inputRate / outputRate)) + 1;
    this.filters = inputRate === outputRate ? [new Float32Array([1])] : makeFilters(inputRate, outputRate, this);
    this.buffer = new Float32Array(this.reach);    // input from `reach` samples before the next output; zeros at first
    this.position = 0;                             // of the next output from the buffer's start, in the same unit
  }

  /** Add the next samples; return the outputs that they complete. */
  process(samples) {
    const joined = new Float32Array(this.buffer.length + samples.length);
    joined.set(this.buffer);
    joined.set(samples, this.buffer.length);
    const width = 2 * this.reach + 1;
    const end = (joined.length - width + 1) * this.phases;    // outputs from this position on need later input
    const output = new Float32Array(Math.max(0, Math.ceil((end - this.position) / this.step)));
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

  /** Return the last outputs, at the end of the input. */
  flush() {
    return this.process(new Float32Array(this.reach));
  }
}

/** Return filters[phase][tap]: weights of the inputs around an output that is phase / phases samples after an input. */
function makeFilters(inputRate, outputRate, { phases, reach }) {
  const lower = Math.min(inputRate, outputRate) / inputRate;
  const cutoff = lower * (1 - SLOPE);            // middle of the transition band, relative to half the input rate
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

/** Kaiser window at x in [-1, 1]. */
function kaiser(x) {
  return bessel(KAISER_BETA * Math.sqrt(1 - x * x)) / bessel(KAISER_BETA);
}

/** Modified Bessel function I0. */
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
