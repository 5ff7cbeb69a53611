// Sends one file and shows its text as it arrives.

import { connectionLost, Problem, uploadRefused, unreadableFile } from "./problems.js";
import { lineSegment } from "./segments.js";
import { clock } from "./transcript.js";
import { toWav } from "./wav.js";

/**
 * The transcription of one file. It calls these `events`:
 *   progress(text)  the progress, to show to the user
 *   end(problem)    the transcription ended; null after success or a stop
 */
export class FileJob {
  constructor(server, options, file, take, events) {
    this.server = server;
    this.options = options;
    this.file = file;
    this.take = take;
    this.events = events;
    this.abort = new AbortController();
  }

  async start() {
    let problem = null;
    try {
      await this.transcribe();
    } catch (error) {
      problem = error instanceof Problem ? error : connectionLost();
    }
    if (this.abort.signal.aborted) problem = null;
    this.take.end(problem);
    this.events.end(problem);
  }

  /** Stop, and keep the text so far. */
  stop() {
    this.abort.abort();
  }

  async transcribe() {
    const { name } = this.file;
    let response = await this.post(this.file);
    if (response.status === 400) {    // the browser may decode a format that the server cannot
      const { message } = await response.json();
      const wav = await toWav(this.file, this.server.sampleRate).catch(() => {
        throw unreadableFile(name, message);
      });
      response = await this.post(wav);
    }
    if (!response.ok) throw uploadRefused(response.status, (await response.json()).message);
    this.events.progress(`Transcribing ${name}`);
    for await (const record of lines(response.body)) this.show(record);
  }

  async post(body) {
    const form = new FormData();    // options go into the form: hot words and a context may be too long for a URL
    for (const [name, value] of Object.entries(this.options)) form.append(name, JSON.stringify(value));
    form.append("file", body);
    return fetch(this.server.uploadUrl, { method: "POST", body: form, signal: this.abort.signal });
  }

  show(record) {
    if (record.status === "failed") throw uploadRefused(null, record.message);
    if (record.status === "ok") return;
    const segment = lineSegment(record);
    if ("partial" in record) return this.take.partial(segment);
    this.take.final(segment);
    this.events.progress(`Transcribing ${this.file.name}: ${clock(segment.end)} done`);
  }
}

/** Yield the JSON objects of a body, one per line. */
async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let read = await reader.read(); !read.done; read = await reader.read()) {
    const parts = (rest + read.value).split("\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part);
  }
}
