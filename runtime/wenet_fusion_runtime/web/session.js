// One stream of speech to the server: its WebSocket messages. Knows no audio device and no page.

import { connectionLost, refused, serverFull, tooSlow, unreachable } from "./problems.js";

const MAX_UNSENT_SECONDS = 30;

/**
 * A session on the server; samples sent before it is ready are kept.
 *
 * `events` are called as they come:
 *   ready()           the server listens
 *   partial(segment)  the open segment so far
 *   final(segment)    a segment closed
 *   end()             everything was recognised; the last one
 *   problem(problem)  it failed; the last one
 * A segment is {text, committed, words, start, end}: `committed` is the part of the text that can no longer change,
 * `words` are {text, start, end, spaced}; all times are seconds since the session's start.
 */
export class Session {
  constructor(url, rate, options, events) {
    this.rate = rate;
    this.events = events;
    this.waiting = [];          // blocks from before the server was ready
    this.isReady = false;
    this.isEnding = false;
    this.isOver = false;
    this.sent = 0;              // samples
    this.sentAt = [];           // [seconds of audio, when it was handed over], oldest first
    this.socket = new WebSocket(url);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.socket.send(JSON.stringify({ signal: "start", nbest: 1, continuous_decoding: true, ...options }));
    this.socket.onmessage = ({ data }) => this.receive(JSON.parse(data));
    this.socket.onclose = () => this.fail(this.isReady ? connectionLost() : unreachable());
  }

  /** The next samples. */
  send(samples) {
    this.sent += samples.length;
    this.sentAt.push([this.sent / this.rate, performance.now()]);
    if (!this.isReady) this.waiting.push(samples);
    else this.socket.send(samples);
    const waiting = this.waiting.reduce((sum, block) => sum + block.byteLength, 0);
    const unsent = (waiting + this.socket.bufferedAmount) / 2 / this.rate;
    if (unsent > MAX_UNSENT_SECONDS) this.fail(tooSlow(unsent));
  }

  /** No more samples come; `end` follows. */
  end() {
    this.isEnding = true;
    if (this.isReady) this.socket.send(JSON.stringify({ signal: "end" }));
  }

  /** Drop the session; no event follows. */
  close() {
    this.isOver = true;
    this.socket.close();
  }

  /** Seconds from the moment a sample was handed over until now. */
  delay(audioSeconds) {
    while (this.sentAt.length > 1 && this.sentAt[0][0] < audioSeconds) this.sentAt.shift();
    return this.sentAt.length === 0 ? 0 : (performance.now() - this.sentAt[0][1]) / 1000;
  }

  receive(message) {
    if (this.isOver) return;
    if (message.status !== "ok") return this.fail(failure(message));
    switch (message.type) {
      case "server_ready":
        return this.begin();
      case "partial_result":
        return this.events.partial(partialSegment(message));
      case "final_result":
        return this.events.final(finalSegment(message));
      case "speech_end":
        this.close();
        return this.events.end();
    }
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
