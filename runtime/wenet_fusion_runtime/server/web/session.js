// One session on the server: its WebSocket messages.

import { connectionLost, failure, tooSlow, unreachable } from "./problems.js";
import { messageSegment } from "./segments.js";

const MAX_UNSENT_SECONDS = 30;

/**
 * A session on the server; samples sent before the server is ready are kept. It calls these `events`:
 *   ready()           the server is ready
 *   partial(segment)  the open segment so far
 *   final(segment)    a segment closed
 *   end()             all audio is recognised; no event follows
 *   problem(problem)  the session failed; no event follows
 * Segments are those of segments.js; their times are seconds from the start of the session.
 */
export class Session {
  constructor(url, rate, options, events) {
    this.rate = rate;
    this.events = events;
    this.waiting = [];          // blocks from before the server was ready
    this.isReady = false;
    this.isEnding = false;
    this.isOver = false;
    this.error = null;        // the server's error message before it closed
    this.sent = 0;              // samples
    this.sentAt = [];           // [seconds of audio, time at which `send` got it], oldest first
    this.socket = new WebSocket(url);
    this.socket.binaryType = "arraybuffer";
    const start = { signal: "start", sample_rate: rate, timestamps: true, continuous_decoding: true, ...options };
    this.socket.onopen = () => this.tell(start);
    this.socket.onmessage = ({ data }) => this.receive(JSON.parse(data));
    this.socket.onclose = ({ code }) => this.fail(this.reason(code));
  }

  /** Send the next samples, an Int16Array. */
  send(samples) {
    this.sent += samples.length;
    this.sentAt.push([this.sent / this.rate, performance.now()]);
    if (!this.isReady) this.waiting.push(samples);
    else this.socket.send(samples);
    const waiting = this.waiting.reduce((sum, block) => sum + block.byteLength, 0);
    const unsent = (waiting + this.socket.bufferedAmount) / 2 / this.rate;
    if (unsent > MAX_UNSENT_SECONDS) this.fail(tooSlow(unsent));
  }

  /** Mark the end of the audio; the event `end` follows. */
  end() {
    this.isEnding = true;
    if (this.isReady) this.tell({ signal: "end" });
  }

  /** Drop the session; no event follows. */
  close() {
    this.isOver = true;
    this.socket.close();
  }

  /** Return the seconds since `send` got the sample at this time of the audio. */
  delay(audioSeconds) {
    while (this.sentAt.length > 1 && this.sentAt[0][0] < audioSeconds) this.sentAt.shift();
    return this.sentAt.length === 0 ? 0 : (performance.now() - this.sentAt[0][1]) / 1000;
  }

  receive(message) {
    if (this.isOver) return;
    if (message.status !== "ok") {
      this.error = message.message;
    } else if (message.type === "server_ready") {
      this.begin();
    } else if (message.type === "partial_result") {
      this.events.partial(messageSegment(message));
    } else if (message.type === "final_result") {
      this.events.final(messageSegment(message));
    } else if (message.type === "speech_end") {
      this.close();
      this.events.end();
    }
  }

  reason(closeCode) {
    if (this.error !== null) return failure(this.error, closeCode, this.isReady);
    return this.isReady ? connectionLost() : unreachable();
  }

  tell(signal) {
    this.socket.send(JSON.stringify(signal));
  }

  begin() {
    this.isReady = true;
    for (const block of this.waiting.splice(0)) this.socket.send(block);
    if (this.isEnding) this.end();
    this.events.ready();
  }

  fail(problem) {
    if (this.isOver) return;
    this.close();
    this.events.problem(problem);
  }
}
