// Shows the text: a take for each recording or file, with a line for each segment.

import { plainText, subRip } from "./subtitles.js";

const NEAR_END = 120;    // pixels; the window follows new text if it is nearer than this to the page's end

/** The list of all takes, newest last. */
export class Transcript {
  /** @param {HTMLElement} element  container; @param {(text: string) => void} announce  speaks to a screen reader. */
  constructor(element, announce) {
    this.element = element;
    this.announce = announce;
  }

  get isEmpty() {
    return this.element.childElementCount === 0;
  }

  /** Begin a take; `fileName`, without extension, is the name for its downloads. */
  begin(title, fileName) {
    const take = new Take(title, fileName, this.announce);
    follow(() => this.element.append(take.element));
    return take;
  }
}

class Take {
  constructor(title, fileName, announce) {
    this.fileName = fileName;
    this.announce = announce;
    this.segments = [];
    this.element = document.getElementById("take").content.firstElementChild.cloneNode(true);
    this.find("h2").textContent = title;
    this.find(".copy").onclick = (event) => this.copy(event.currentTarget);
    this.find(".txt").onclick = () => download(`${fileName}.txt`, plainText(this.segments));
    this.find(".srt").onclick = () => download(`${fileName}.srt`, subRip(this.segments));
    this.open = null;    // the open segment
  }

  find(selector) {
    return this.element.querySelector(selector);
  }

  /** Show the open segment so far. */
  partial(segment) {
    this.open = segment;
    follow(() => this.showOpen(segment.start, segment.committed, segment.text.slice(segment.committed.length)));
  }

  /** Show a segment that closed. */
  final(segment) {
    this.open = null;
    this.showOpen(null, "", "");
    if (segment.text === "") return;
    this.segments.push(segment);
    const row = document.getElementById("segment").content.firstElementChild.cloneNode(true);
    row.querySelector("time").textContent = clock(segment.start);
    row.querySelector("p").textContent = segment.text;
    follow(() => {
      this.find("ol").append(row);
      this.find(".actions").hidden = false;
    });
    this.announce(segment.text);
  }

  /** End the take and keep the open segment. After a problem, remove a take without text. */
  end(problem) {
    if (this.open) this.final(this.open);
    this.find(".open").hidden = true;
    if (this.segments.length > 0) return;
    if (problem) this.element.remove();
    this.find(".nothing").hidden = false;
  }

  showOpen(start, committed, tentative) {
    this.find(".open time").textContent = start === null ? "" : clock(start);
    this.find(".committed").textContent = committed;
    this.find(".tentative").textContent = tentative;
  }

  async copy(button) {
    let said = "Copied";
    try {
      await navigator.clipboard.writeText(plainText(this.segments));
    } catch {    // not allowed on this page
      getSelection().selectAllChildren(this.find("ol"));
      said = "Press Ctrl+C";
    }
    this.announce(said);
    button.textContent = said;
    setTimeout(() => (button.textContent = "Copy"), 3000);
  }
}

/** Change the page, and scroll to its end if the end was visible or near. */
function follow(change) {
  const root = document.documentElement;
  const isAtEnd = root.scrollHeight - root.scrollTop - root.clientHeight < NEAR_END;
  change();
  if (isAtEnd) root.scrollTop = root.scrollHeight;
}

function download(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/plain;charset=utf-8" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/** Return M:SS or H:MM:SS. */
export function clock(seconds) {
  const [hours, minutes, rest] = [seconds / 3600, (seconds / 60) % 60, seconds % 60].map(Math.floor);
  const tail = String(rest).padStart(2, "0");
  return hours === 0 ? `${minutes}:${tail}` : `${hours}:${String(minutes).padStart(2, "0")}:${tail}`;
}
