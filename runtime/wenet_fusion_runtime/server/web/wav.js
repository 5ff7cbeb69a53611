// Converts audio to a WAV file in the browser, for formats that the server cannot read.

const HEADER = 44;    // bytes

/**
 * Return the audio of an audio or video file as WAV: one channel, 16 bits.
 * @returns {Promise<Blob>} rejects if the browser cannot read the file.
 */
export async function toWav(file, rate) {
  const decoder = new OfflineAudioContext(1, 1, rate);    // decodeAudioData resamples to this rate
  const audio = await decoder.decodeAudioData(await file.arrayBuffer());
  const channels = Array.from({ length: audio.numberOfChannels }, (_, index) => audio.getChannelData(index));
  const view = new DataView(new ArrayBuffer(HEADER + 2 * audio.length));
  writeHeader(view, rate);
  for (let index = 0; index < audio.length; index++) {
    let sum = 0;
    for (const channel of channels) sum += channel[index];
    const sample = Math.max(-32768, Math.min(32767, Math.round((32768 * sum) / channels.length)));
    view.setInt16(HEADER + 2 * index, sample, true);
  }
  return new Blob([view], { type: "audio/wav" });
}

function writeHeader(view, rate) {
  const word = (at, text) => [...text].forEach((letter, index) => view.setUint8(at + index, letter.charCodeAt(0)));
  const size = view.byteLength;
  word(0, "RIFF");
  view.setUint32(4, size - 8, true);
  word(8, "WAVEfmt ");
  view.setUint32(16, 16, true);          // size of this chunk
  view.setUint16(20, 1, true);           // PCM
  view.setUint16(22, 1, true);           // channels
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);    // bytes per second
  view.setUint16(32, 2, true);           // bytes per frame
  view.setUint16(34, 16, true);          // bits per sample
  word(36, "data");
  view.setUint32(40, size - HEADER, true);
}
