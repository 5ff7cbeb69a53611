// The options form: chunk size and hot words.

export class Options {
  constructor(chunks, hotWords) {
    this.chunks = chunks;
    this.hotWords = hotWords;
  }

  /** List the chunk sizes of the server's model. */
  offer({ chunks }) {
    this.chunks.replaceChildren(
      ...chunks.map(({ size, seconds, isDefault }) => {
        const text = `${seconds} s${isDefault ? " (default)" : ""}`;
        return new Option(text, size, isDefault, isDefault);
      }),
    );
  }

  /** The chosen options, with the keys of a start signal. */
  get value() {
    const phrases = this.hotWords.value.split(/[\n,]/).map((phrase) => phrase.trim()).filter(Boolean);
    const value = { chunk: Number(this.chunks.value) };
    return phrases.length === 0 ? value : { ...value, hot_words: phrases.map((phrase) => ({ phrase })) };
  }
}
