// Converts the server's results to segments.
//
// A segment is {text, committed, words, start, end}. `committed` is the beginning of the text whose words are final.
// `words` are {text, start, end, spaced}; `spaced` is true if a space precedes the word. Times are in seconds; they are
// null if the server sent none.

/** Return the segment in a message partial_result or final_result; `offset` seconds are added to its times. */
export function messageSegment(message, offset = 0) {
  const [{ sentence }] = JSON.parse(message.nbest);    // WeNet's protocol has JSON in a string here
  const moved = (timed) => ({ ...timed, start: timed.start + offset, end: timed.end + offset });
  return makeSegment(sentence, offset === 0 ? message : { ...moved(message), words: message.words?.map(moved) });
}

/** Return the segment in a line of the response to POST /transcribe. */
export function lineSegment(record) {
  return makeSegment(record.text ?? record.partial, record);
}

function makeSegment(text, { words: timed = [], start = null, end = null, committed: count = 0 }) {
  const words = [];
  const ends = [0];       // ends[n]: end of the first n words in the text
  for (const word of timed) {
    const at = text.indexOf(word.text, ends.at(-1));
    words.push({ ...word, spaced: at > ends.at(-1) });
    ends.push(Math.max(at, ends.at(-1)) + word.text.length);
  }
  const committed = text.slice(0, ends[Math.min(count, words.length)]);
  // Show the start of the first word: the segment itself begins with the silence after the previous segment.
  return { text, committed, words, start: words[0]?.start ?? start, end };
}
