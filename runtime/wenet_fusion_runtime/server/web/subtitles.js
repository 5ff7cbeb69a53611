// Writes segments as plain text and as SubRip subtitles.

const LINE_WIDTH = 42;       // characters per line; a subtitle has two lines
const MAX_SECONDS = 7;       // longest subtitle
const PAUSE_SECONDS = 1;     // a pause of this length begins a new subtitle
const MIN_SECONDS = 1;       // shortest display, unless the next subtitle begins earlier

/** Return one line per segment. */
export function plainText(segments) {
  return segments.map((segment) => `${segment.text}\n`).join("");
}

/** Return subtitles, made of words, or of a whole segment if the server sent no words for it. */
export function subRip(segments) {
  const cues = segments.flatMap(cuesOf);
  return cues
    .map(({ start, end, text }, index) => {
      const next = cues[index + 1]?.start ?? Infinity;
      const shownUntil = Math.min(Math.max(end, start + MIN_SECONDS), Math.max(next, start));
      return `${index + 1}\n${clock(start)} --> ${clock(shownUntil)}\n${text}\n\n`;
    })
    .join("");
}

function cuesOf(segment) {
  if (segment.words.length === 0) return [{ start: segment.start, end: segment.end, text: segment.text }];
  const groups = [];
  for (const word of segment.words) {
    const group = groups.at(-1);
    if (group && fits(group, word)) group.push(word);
    else groups.push([word]);
  }
  return groups.map((group) => ({ start: group[0].start, end: group.at(-1).end, text: lines(group).join("\n") }));
}

function fits(group, word) {
  const isNear = word.start - group.at(-1).end < PAUSE_SECONDS && word.end - group[0].start <= MAX_SECONDS;
  return isNear && lines([...group, word]).length <= 2;
}

function lines(words) {
  const filled = [];
  for (const { text, spaced } of words) {
    const line = filled.at(-1);
    const longer = line === undefined ? text : `${line}${spaced ? " " : ""}${text}`;
    if (line === undefined || longer.length > LINE_WIDTH) filled.push(text);
    else filled[filled.length - 1] = longer;
  }
  return filled;
}

/** HH:MM:SS,mmm */
function clock(seconds) {
  const whole = Math.round(1000 * seconds);
  const part = (value, digits = 2) => String(Math.floor(value)).padStart(digits, "0");
  return `${part(whole / 3600000)}:${part((whole / 60000) % 60)}:${part((whole / 1000) % 60)},${part(whole % 1000, 3)}`;
}
