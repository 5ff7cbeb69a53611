// Opens the microphone and passes its audio on as 16-bit samples.

import { insecureOrigin, microphoneLost, microphoneProblem, Problem, unreachable } from "./problems.js";

const PATIENCE = 1000;    // milliseconds to wait for the last samples of the audio thread
// Processing for calls is off: the model was trained on unprocessed audio.
const CONSTRAINTS = { audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false } };

/**
 * Ask for the microphone and start recording.
 * @param {number} rate  sample rate of `onSamples`, Hz.
 * @param {(samples: Int16Array) => void} onSamples  receives the next samples.
 * @param {(problem: Problem) => void} onLost  called once if the device is removed.
 * @returns {Promise<Microphone>} rejects with a Problem.
 */
export async function openMicrophone(rate, onSamples, onLost) {
  if (!navigator.mediaDevices) throw insecureOrigin();
  const context = new AudioContext();    // before the first await: browsers let it run only right after a click or key
  let stream;
  try {
    // Load the module before the microphone opens, so that the first samples are recorded.
    await context.audioWorklet.addModule(new URL("recorder.js", import.meta.url)).catch(() => {
      throw unreachable();
    });
    stream = await navigator.mediaDevices.getUserMedia(CONSTRAINTS);
    await context.resume();
    return new Microphone(context, stream, rate, onSamples, onLost);
  } catch (error) {
    stream?.getTracks().forEach((track) => track.stop());
    await context.close();
    throw error instanceof Problem ? error : microphoneProblem(error);
  }
}

class Microphone {
  constructor(context, stream, rate, onSamples, onLost) {
    this.context = context;
    this.stream = stream;
    this.recorder = new AudioWorkletNode(context, "recorder", {
      numberOfOutputs: 0,
      processorOptions: { outputRate: rate },
    });
    this.ended = new Promise((resolve) => {
      this.recorder.port.onmessage = ({ data }) => (data.ended ? resolve() : onSamples(data.samples));
    });
    for (const track of stream.getTracks()) track.onended = () => onLost(microphoneLost());
    context.createMediaStreamSource(stream).connect(this.recorder);
  }

  /** Pass on the last samples and release the device. */
  async stop() {
    this.recorder.port.postMessage("stop");
    await Promise.race([this.ended, new Promise((resolve) => setTimeout(resolve, PATIENCE))]);
    for (const track of this.stream.getTracks()) {
      track.onended = null;
      track.stop();
    }
    await this.context.close();
  }
}
