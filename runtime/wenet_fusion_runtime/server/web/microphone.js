// The microphone as a stream of 16-bit samples. Knows no network and no page.

import { insecureOrigin, microphoneLost, microphoneProblem, Problem, unreachable } from "./problems.js";

const PATIENCE = 1000;    // milliseconds that the audio thread may take to hand over its last samples
// The model was trained on sound as it was: what calls need would change it.
const CONSTRAINTS = { audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false } };

/**
 * Ask for the microphone and listen.
 * @param {number} rate  in Hz, of the samples.
 * @param {(samples: Int16Array) => void} onSamples  takes the next ones.
 * @param {(problem: Problem) => void} onLost  is called once if the device goes away.
 * @returns {Promise<Microphone>}; rejects with a Problem.
 */
export async function openMicrophone(rate, onSamples, onLost) {
  if (!navigator.mediaDevices) throw insecureOrigin();
  const context = new AudioContext();    // before anything is awaited: browsers want a click for it
  let stream;
  try {
    // First, so that nothing of what is said once the microphone is open is lost.
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

  /** Hand over the last samples and release the device. */
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
