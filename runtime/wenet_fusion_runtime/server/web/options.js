// The options form: chunk size, hot words and a context.

export class Options {
  constructor(chunks, hotWords, context) {
    this.chunks = chunks;
    this.hotWords = hotWords;
    this.context = context;
  }

  /** Offer the chunk sizes of the server's model. */
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
    const context = this.context.value.trim();
    return {
      chunk: Number(this.chunks.value),
      ...(phrases.length > 0 && { hot_words: phrases.map((phrase) => ({ phrase })) }),
      ...(context && { context }),
    };
  }
}
