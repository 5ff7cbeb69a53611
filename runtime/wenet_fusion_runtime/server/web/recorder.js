// Runs in the audio thread: converts the microphone's samples to blocks of 16-bit samples at the model's rate.

import { Resampler } from "./resampler.js";

const BLOCK_SECONDS = 0.04;

class Recorder extends AudioWorkletProcessor {
  constructor({ processorOptions }) {
    super();
    const { outputRate } = processorOptions;
    this.resampler = new Resampler(sampleRate, outputRate);    // the global sampleRate is the device's
    this.block = new Int16Array(Math.round(BLOCK_SECONDS * outputRate));
    this.filled = 0;
    this.stopped = false;
    this.port.onmessage = () => this.stop();    // "stop" is the only message
  }

  process([channels]) {
    if (this.stopped) return false;
    if (channels.length > 0) this.take(this.resampler.process(mean(channels)));
    return true;
  }

  take(samples) {
    for (const sample of samples) {
      this.block[this.filled++] = Math.max(-32768, Math.min(32767, Math.round(32768 * sample)));
      if (this.filled === this.block.length) this.send();
    }
  }

  send() {
    const samples = this.block.slice(0, this.filled);
    this.filled = 0;
    this.port.postMessage({ samples }, [samples.buffer]);
  }

  stop() {
    this.take(this.resampler.flush());
    this.send();
    this.stopped = true;
    this.port.postMessage({ ended: true });
  }
}

/** Return the mean of all channels. */
function mean(channels) {
  return channels[0].map((_, index) => channels.reduce((sum, channel) => sum + channel[index], 0) / channels.length);
}

registerProcessor("recorder", Recorder);
