// One session on the server: its WebSocket messages, over several connections if one is lost.

import { connectionLost, failure, mayComeBack, tooSlow, unreachable } from "./problems.js";
import { messageSegment } from "./segments.js";
import { Unheard } from "./unheard.js";

const MAX_UNSENT_SECONDS = 30;
const RECONNECT_SECONDS = 30;
const FIRST_WAIT = 0.25;      // seconds until the first attempt to connect again
const LONGEST_WAIT = 4;

/**
 * A session on the server. Samples are kept until a final text covers them; after a lost connection they are sent again.
 * It calls these `events`:
 *   ready()           the server is ready, for the first time or again
 *   lost()            the connection was lost; `ready` follows, or `problem`
 *   partial(segment)  the open segment so far
 *   final(segment)    a segment closed
 *   end()             all audio is recognised; no event follows
 *   problem(problem)  the session failed; no event follows
 * Segments are those of segments.js; their times are seconds from the start of the recording.
 */
export class Session {
  constructor(url, rate, options, events) {
    this.url = url;
    this.rate = rate;
    this.events = events;
    this.start = { signal: "start", sample_rate: rate, timestamps: true, continuous_decoding: true, ...options };
    this.unheard = new Unheard(rate);
    this.isReady = false;
    this.wasReady = false;
    this.isEnding = false;
    this.isOver = false;
    this.begun = 0;             // start of this connection in the recording, seconds
    this.unsent = 0;            // samples that came while there was no connection
    this.giveUpAt = null;       // time in milliseconds; null while connected
    this.wait = FIRST_WAIT;
    this.sent = 0;              // samples
    this.sentAt = [];           // [seconds of audio, time at which `send` got it], oldest first
    this.connect();
  }

  /** Send the next samples, an Int16Array. */
  send(samples) {
    this.sent += samples.length;
    this.sentAt.push([this.sent / this.rate, performance.now()]);
    this.unheard.add(samples);
    if (this.isReady) this.socket.send(samples);
    else this.unsent += samples.length;
    const unsent = (this.unsent + (this.isReady ? this.socket.bufferedAmount / 2 : 0)) / this.rate;
    if (unsent > MAX_UNSENT_SECONDS) this.fail(this.giveUpAt === null ? tooSlow(unsent) : connectionLost());
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

  connect() {
    this.error = null;        // the server's error message before it closed
    this.socket = new WebSocket(this.url);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.tell(this.start);
    this.socket.onmessage = ({ data }) => this.receive(JSON.parse(data));
    this.socket.onclose = ({ code }) => this.closed(code);
  }

  receive(message) {
    if (this.isOver) return;
    if (message.status !== "ok") {
      this.error = message.message;
    } else if (message.type === "server_ready") {
      this.begin();
    } else if (message.type === "partial_result") {
      this.events.partial(messageSegment(message, this.begun));
    } else if (message.type === "final_result") {
      const segment = messageSegment(message, this.begun);
      this.unheard.forget(segment.end);
      this.events.final(segment);
    } else if (message.type === "speech_end") {
      this.close();
      this.events.end();
    }
  }

  /** Connect again if the connection was lost and may come back. */
  closed(code) {
    if (this.isOver) return;
    const wasReady = this.isReady;
    this.isReady = false;
    if (!this.wasReady || (this.error !== null && !mayComeBack(code))) return this.fail(this.reason(code, wasReady));
    const now = performance.now();
    if (this.giveUpAt === null) {
      this.giveUpAt = now + 1000 * RECONNECT_SECONDS;
      this.wait = FIRST_WAIT;
      this.events.lost();
    }
    if (now > this.giveUpAt) return this.fail(connectionLost());
    setTimeout(() => this.isOver || this.connect(), 1000 * this.wait);
    this.wait = Math.min(2 * this.wait, LONGEST_WAIT);
  }

  reason(closeCode, wasReady) {
    if (this.error !== null) return failure(this.error, closeCode, wasReady);
    return this.wasReady ? connectionLost() : unreachable();
  }

  tell(signal) {
    this.socket.send(JSON.stringify(signal));
  }

  begin() {
    this.isReady = this.wasReady = true;
    this.giveUpAt = null;
    this.unsent = 0;
    this.begun = this.unheard.start;
    for (const block of this.unheard.blocks) this.socket.send(block);
    if (this.isEnding) this.end();
    this.events.ready();
  }

  fail(problem) {
    if (this.isOver) return;
    this.close();
    this.events.problem(problem);
  }
}
