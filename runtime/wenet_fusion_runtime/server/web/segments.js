// What the server says of a segment, as the page shows it. Knows no network and no page.
//
// A segment is {text, committed, words, start, end}: `committed` is the beginning of the text that cannot change any more,
// `words` are {text, start, end, spaced}, where `spaced` tells whether a space stands before it. Times are in seconds,
// null where the server did not say them.

/** Of a message partial_result or final_result. */
export function messageSegment(message) {
  const [{ sentence }] = JSON.parse(message.nbest);    // a string within the message: WeNet's protocol has it so
  return makeSegment(sentence, message);
}

/** Of a line that POST /transcribe sends. */
export function lineSegment(record) {
  return makeSegment(record.text ?? record.partial, record);
}

function makeSegment(text, { words: timed = [], start = null, end = null, committed: count = 0 }) {
  const words = [];
  const ends = [0];       // where the text of so many words ends
  for (const word of timed) {
    const at = text.indexOf(word.text, ends.at(-1));
    words.push({ ...word, spaced: at > ends.at(-1) });
    ends.push(Math.max(at, ends.at(-1)) + word.text.length);
  }
  const committed = text.slice(0, ends[Math.min(count, words.length)]);
  // A segment begins where the one before ended: its silence is not what a reader looks for.
  return { text, committed, words, start: words[0]?.start ?? start, end };
}
