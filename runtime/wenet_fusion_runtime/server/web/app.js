// The page: buttons, keys and states.

import { FileJob } from "./files.js";
import { Meter } from "./meter.js";
import { Options } from "./options.js";
import { Recording } from "./recording.js";
import { findServer } from "./server.js";
import { clock, Transcript } from "./transcript.js";

const MUTED_SECONDS = 3;    // length of zeros after which the microphone counts as muted
const MAX_ANNOUNCED = 20;    // lines kept for screen readers
const INTERACTIVE = "a, button, input, select, textarea";
const byId = (id) => document.getElementById(id);

class App {
  constructor() {
    this.server = null;
    this.job = null;             // the running Recording or FileJob
    this.retry = null;           // action of the button "Try again"
    this.seconds = 0;            // length of the audio in this recording
    this.zeroSeconds = 0;
    this.meter = new Meter(byId("meter"));
    this.options = new Options(byId("chunk"), byId("hot-words"), byId("context"));
    this.transcript = new Transcript(byId("transcript"), announce);
    this.listenToButtons();
    this.listenToKeys();
    this.listenToDrops();
    this.connect();
  }

  async connect() {
    this.show("Connecting…");
    try {
      this.server = await findServer();
    } catch (problem) {
      byId("model").textContent = "No connection";
      return this.fail(problem, () => this.connect());
    }
    byId("model").textContent = this.server.description;
    this.options.offer(this.server);
    byId("example").hidden = !this.server.example;
    byId("example").querySelector("q").textContent = this.server.example;
    byId("record").disabled = byId("choose").disabled = false;
    this.show("Ready");
  }

  // ---- jobs

  record() {
    this.seconds = this.zeroSeconds = 0;
    this.meter.clear();
    const time = new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    this.begin(`Microphone, ${time}`, `recording-${time.replace(/\W+/g, "-")}`, (take) => new Recording(
      this.server, this.options.value, take, {
        listening: () => this.show("Listening", "listening"),
        samples: (samples) => this.measure(samples),
        delay: (seconds) => (byId("delay").textContent = `${seconds.toFixed(2)} s`),
        lost: () => this.show("Connection lost. Connecting again; no speech is lost so far…"),
        finishing: () => this.show("Finishing…"),
        end: (problem) => this.end(problem, () => this.record()),
      },
    ), "Waiting for the microphone…");
  }

  transcribe(file) {
    if (this.job || !this.server) return;
    this.begin(file.name, file.name.replace(/\.\w+$/, ""), (take) => new FileJob(
      this.server, this.options.value, file, take, {
        progress: (text) => this.show(text),
        end: (problem) => this.end(problem, () => this.transcribe(file)),
      },
    ), `Sending ${file.name}…`);
  }

  begin(title, fileName, makeJob, status) {
    this.dismiss();
    byId("intro").hidden = true;
    byId("time").textContent = "0:00";
    byId("delay").textContent = "–";
    document.body.classList.add("busy");
    byId("record").setAttribute("aria-label", "Stop");
    byId("choose").disabled = true;
    this.show(status);
    this.job = makeJob(this.transcript.begin(title, fileName));
    this.job.start();
  }

  end(problem, retry) {
    this.job = null;
    document.body.classList.remove("busy");
    byId("record").setAttribute("aria-label", "Start");
    byId("choose").disabled = false;
    this.show("Ready");
    byId("intro").hidden = !this.transcript.isEmpty;
    if (problem) this.fail(problem, retry);
  }

  toggle() {
    if (this.job) this.job.stop();
    else if (this.server) this.record();
  }

  measure(samples) {
    const seconds = samples.length / this.server.sampleRate;
    this.seconds += seconds;
    this.zeroSeconds = samples.some((sample) => sample !== 0) ? 0 : this.zeroSeconds + seconds;
    this.meter.add(samples);
    byId("time").textContent = clock(this.seconds);
    const isMuted = this.zeroSeconds > MUTED_SECONDS;
    if (document.body.classList.contains("listening")) {
      this.show(isMuted ? "No sound: is the microphone muted?" : "Listening", "listening");
    }
  }

  // ---- messages to the user

  show(status, state = "") {
    document.body.classList.toggle("listening", state === "listening");
    if (byId("status").textContent === status) return;
    byId("status").textContent = status;
  }

  fail(problem, retry) {
    this.retry = retry;
    byId("problem").querySelector(".title").textContent = problem.title ?? "Something went wrong";
    byId("problem").querySelector(".help").textContent = problem.help ?? problem.message;
    byId("problem").hidden = false;
    if (!problem.title) console.error(problem);
  }

  dismiss() {
    byId("problem").hidden = true;
  }

  // ---- input of the user

  listenToButtons() {
    byId("record").onclick = () => this.toggle();
    byId("choose").onclick = () => byId("file").click();
    byId("file").onchange = () => {
      const [file] = byId("file").files;
      byId("file").value = "";    // lets the same file be chosen again
      if (file) this.transcribe(file);
    };
    byId("more").onclick = () => this.unfold(byId("options").hidden);
    byId("options").onsubmit = (event) => event.preventDefault();
    byId("problem").querySelector(".dismiss").onclick = () => this.dismiss();
    byId("problem").querySelector(".retry").onclick = () => {
      this.dismiss();
      if (!this.job) this.retry();
    };
  }

  unfold(isOpen) {
    byId("options").hidden = !isOpen;
    byId("more").setAttribute("aria-expanded", String(isOpen));
    (isOpen ? byId("chunk") : byId("more")).focus();
  }

  listenToKeys() {
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
      if (event.key === "Escape") this.escape();
      if (event.key !== " " || event.target.closest(INTERACTIVE)) return;
      event.preventDefault();    // Space would scroll the page
      if (!event.repeat) this.toggle();
    });
  }

  escape() {
    if (!byId("problem").hidden) this.dismiss();
    else if (!byId("options").hidden) this.unfold(false);
    else this.job?.stop();
  }

  listenToDrops() {
    let depth = 0;    // nesting of dragenter events: entering a child leaves its parent
    const show = (change) => {
      depth = Math.max(0, depth + change);
      byId("drop").hidden = depth === 0;
      byId("drop").textContent = this.job ? "Stop the recording or file first" : "Drop to transcribe";
    };
    const holdsFile = (event) => event.dataTransfer?.types.includes("Files");
    document.addEventListener("dragenter", (event) => holdsFile(event) && show(1));
    document.addEventListener("dragleave", (event) => holdsFile(event) && show(-1));
    document.addEventListener("dragover", (event) => holdsFile(event) && event.preventDefault());
    document.addEventListener("drop", (event) => {
      if (!holdsFile(event)) return;
      event.preventDefault();
      show(-depth);
      const [file] = event.dataTransfer.files;
      if (file) this.transcribe(file);
    });
  }
}

/** Add text for a screen reader, which speaks it after its present text. */
function announce(text) {
  const line = document.createElement("p");
  line.textContent = text;
  byId("announcer").append(line);
  if (byId("announcer").childElementCount > MAX_ANNOUNCED) byId("announcer").firstElementChild.remove();
}

new App();
