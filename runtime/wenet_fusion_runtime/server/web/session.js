// One session on the server, over several WebSocket connections if one is lost.

import { connectionLost, failure, mayComeBack, tooSlow, unreachable } from "./problems.js";
import { messageSegment } from "./segments.js";
import { Unheard } from "./unheard.js";

const MAX_UNSENT_SECONDS = 30;
const STALLED_SECONDS = 20;   // a connection is lost if it is not ready, or sends none of its waiting data, for this time
const SILENT_SECONDS = 30;    // ... or after this time without a message, once audio and end signal are sent
const CHECK_SECONDS = 1;
const RECONNECT_SECONDS = 30;
const FIRST_WAIT = 0.25;      // seconds until the first attempt to connect again
const LONGEST_WAIT = 4;
const ABNORMAL = 1006;        // close code of a connection without a close message
const LASTING_SECONDS = 60;   // a connection that was ready for this time counts as good, even without a final text

/**
 * A session on the server. Samples are kept until a final text covers them, and sent again after a lost connection.
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
    this.isWaiting = false;     // waits for the next attempt to connect
    this.isOver = false;
    this.begun = 0;             // start of this connection in the recording, seconds
    this.unsent = 0;            // number of samples that came while there was no connection
    this.sentAgain = 0;         // number of kept samples that were sent when this connection became ready
    this.waiting = 0;           // bytes that had not left the browser at the last check
    this.movedAt = 0;           // time in milliseconds of the last sign of life, see `check`
    this.readyAt = null;        // time at which the connection became ready
    this.giveUpAt = 0;          // time until which to try to connect again
    this.keptFrom = -1;         // first kept sample when `giveUpAt` was set
    this.wait = FIRST_WAIT;
    this.sent = 0;              // samples
    this.sentAt = [];           // [seconds of audio, time at which `send` got it], oldest first
    this.checks = setInterval(() => this.check(), 1000 * CHECK_SECONDS);
    this.connect();
  }

  /** Send the next samples, an Int16Array. */
  send(samples) {
    this.sent += samples.length;
    this.sentAt.push([this.sent / this.rate, performance.now()]);
    this.unheard.add(samples);
    this.check();
    if (this.isReady) this.transmit(samples);
    else this.unsent += samples.length;
    const unsent = (this.isReady ? this.socket.bufferedAmount / 2 : this.unsent) / this.rate;
    const allowed = MAX_UNSENT_SECONDS + (this.isReady ? this.sentAgain / this.rate : 0);
    if (unsent > allowed) this.fail(this.isReady || !this.wasReady ? tooSlow(unsent) : connectionLost());
  }

  /** Mark the end of the audio; the event `end` follows. */
  end() {
    this.isEnding = true;
    if (this.isReady) this.tell({ signal: "end" });
  }

  /** Drop the session; no event follows. */
  close() {
    this.isOver = true;
    clearInterval(this.checks);
    this.socket.close();
  }

  /** Return the seconds since `send` received the sample at this time of the audio. */
  delay(audioSeconds) {
    while (this.sentAt.length > 1 && this.sentAt[0][0] < audioSeconds) this.sentAt.shift();
    return this.sentAt.length === 0 ? 0 : (performance.now() - this.sentAt[0][1]) / 1000;
  }

  connect() {
    this.isWaiting = false;
    this.error = null;        // the server's error message before it closed
    this.movedAt = performance.now();
    this.socket = new WebSocket(this.url);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.tell(this.start);
    this.socket.onmessage = ({ data }) => this.receive(JSON.parse(data));
    this.socket.onclose = ({ code }) => this.closed(code);
  }

  receive(message) {
    if (this.isOver) return;
    this.movedAt = performance.now();
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
    if (wasReady) this.unsent = 0;
    this.isReady = false;
    if (!this.wasReady || (this.error !== null && !mayComeBack(code))) return this.fail(this.reason(code, wasReady));
    const now = performance.now();
    const lasted = wasReady && now - this.readyAt > 1000 * LASTING_SECONDS;
    if (this.unheard.first > this.keptFrom || lasted) {    // otherwise the last connection made no progress
      this.keptFrom = this.unheard.first;
      this.giveUpAt = now + 1000 * RECONNECT_SECONDS;
      this.wait = FIRST_WAIT;
    }
    if (wasReady) this.events.lost();
    if (now > this.giveUpAt) return this.fail(connectionLost());
    this.isWaiting = true;
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

  transmit(samples) {
    this.socket.send(samples);
    this.waiting = this.socket.bufferedAmount;
  }

  /** Drop a connection without a sign of life: the browser notices a lost network only after minutes. */
  check() {
    if (this.isWaiting) return;
    const now = performance.now();
    const waiting = this.socket.bufferedAmount;
    const isSent = this.isReady && waiting === 0;
    if ((isSent && !this.isEnding) || (this.isReady && waiting < this.waiting)) this.movedAt = now;
    this.waiting = waiting;
    if (now - this.movedAt <= 1000 * (isSent ? SILENT_SECONDS : STALLED_SECONDS)) return;
    this.socket.onopen = this.socket.onmessage = this.socket.onclose = null;
    this.socket.close();
    this.closed(ABNORMAL);
  }

  begin() {
    this.isReady = this.wasReady = true;
    this.readyAt = performance.now();
    this.begun = this.unheard.start;
    this.sentAgain = 0;
    for (const block of this.unheard.blocks) {
      this.sentAgain += block.length;
      this.transmit(block);
    }
    if (this.isEnding) this.end();
    this.events.ready();
  }

  fail(problem) {
    if (this.isOver) return;
    this.close();
    this.events.problem(problem);
  }
}
