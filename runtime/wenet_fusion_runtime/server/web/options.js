// What a person may choose: when text appears, and which words to expect. Knows no network.

export class Options {
  constructor(chunks, hotWords) {
    this.chunks = chunks;
    this.hotWords = hotWords;
  }

  /** Fill the choice with what the server's model can do. */
  offer({ chunks }) {
    this.chunks.replaceChildren(
      ...chunks.map(({ size, seconds, isDefault }) => {
        const text = `${seconds} s${isDefault ? " (default)" : ""}`;
        return new Option(text, size, isDefault, isDefault);
      }),
    );
  }

  /** As the server takes it in a start signal. */
  get value() {
    const phrases = this.hotWords.value.split(/[\n,]/).map((phrase) => phrase.trim()).filter(Boolean);
    const value = { chunk: Number(this.chunks.value) };
    return phrases.length === 0 ? value : { ...value, hot_words: phrases.map((phrase) => ({ phrase })) };
  }
}
