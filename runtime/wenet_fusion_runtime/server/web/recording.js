// One recording: connects the microphone, the session on the server and the take that shows the text.

import { openMicrophone } from "./microphone.js";
import { Session } from "./session.js";

/**
 * One recording. It calls these `events`:
 *   listening()       the microphone is open and the server is ready
 *   samples(samples)  the next samples of the microphone
 *   delay(seconds)    time from the end of the audio that a text covers until the text arrived
 *   lost()            the connection was lost; `listening` or `finishing` follows once it is back
 *   finishing()       the microphone is closed, the last text is pending
 *   end(problem)      the recording ended; null after success
 */
export class Recording {
  constructor(server, options, take, events) {
    this.server = server;
    this.options = options;
    this.take = take;
    this.events = events;
    this.problem = null;
    this.microphone = null;
    this.session = null;
    this.isStopping = false;
    this.isOver = false;
  }

  async start() {
    try {
      const microphone = await openMicrophone(
        this.server.sampleRate,
        (samples) => this.send(samples),
        (problem) => this.stop(problem),
      );
      if (this.isStopping) {    // stopped while the browser asked for permission
        await microphone.stop();
        return this.finish(null);
      }
      this.microphone = microphone;
      this.session = new Session(this.server.socketUrl, this.server.sampleRate, this.options, {
        ready: () => (this.isStopping ? this.events.finishing() : this.events.listening()),
        lost: () => this.events.lost(),
        partial: (segment) => this.show(segment),
        final: (segment) => this.take.final(segment),
        end: () => this.finish(this.problem),
        problem: (problem) => this.finish(this.problem ?? problem),
      });
      this.wakeLock = await navigator.wakeLock?.request("screen").catch(() => null);    // keeps phones from sleeping
      if (this.isOver) this.wakeLock?.release();
    } catch (problem) {
      this.finish(problem);
    }
  }

  /** Close the microphone and wait for the last text; a second call ends the wait. */
  async stop(problem = null) {
    if (this.isStopping) return this.microphone && this.finish(this.problem);
    this.isStopping = true;
    this.problem = problem;
    if (!this.microphone) return;
    this.events.finishing();
    await this.microphone.stop();
    this.session.end();
  }

  send(samples) {
    if (this.isOver) return;
    this.session.send(samples);
    this.events.samples(samples);
  }

  show(segment) {
    this.take.partial(segment);
    if (!this.isStopping) this.events.delay(this.session.delay(segment.end));
  }

  async finish(problem) {
    if (this.isOver) return;
    this.isOver = true;
    this.session?.close();
    this.wakeLock?.release();
    if (!this.isStopping) await this.microphone?.stop();
    this.take.end(problem);
    this.events.end(problem);
  }
}
