// Keeps the samples that no final text covers yet, to send them again after a lost connection.

export class Unheard {
  constructor(rate) {
    this.rate = rate;
    this.first = 0;       // index of the first kept sample
    this.blocks = [];     // Int16Arrays
  }

  /** Time of the first kept sample, in seconds. */
  get start() {
    return this.first / this.rate;
  }

  /** Keep the next samples. */
  add(samples) {
    this.blocks.push(samples);
  }

  /** Drop the samples before this time. */
  forget(seconds) {
    const covered = Math.round(seconds * this.rate);
    while (this.blocks.length > 0 && this.first < covered) {
      const [block] = this.blocks;
      const dropped = Math.min(block.length, covered - this.first);
      this.first += dropped;
      if (dropped < block.length) this.blocks[0] = block.subarray(dropped);
      else this.blocks.shift();
    }
  }
}
