"""Live audio from a pipe: raw 16-bit PCM, or WAV with samples of any width."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from types import TracebackType

import numpy as np

from wenet_fusion_runtime.audio.live_audio import AudioBlock, BlockQueue
from wenet_fusion_runtime.audio.pcm_check import PcmCheck
from wenet_fusion_runtime.audio.resampling import to_float
from wenet_fusion_runtime.audio.sample_formats import PCM, check_format, from_bytes
from wenet_fusion_runtime.audio.wav_header import WavHeader, is_wav, read_following_header, read_wav_header

RAW_RATE = 16000
ARECORD = f"arecord -t raw -f S16_LE -r {RAW_RATE} -c 1"  # a command that writes raw samples to a pipe
BLOCK_SECONDS = 0.1
POLL_SECONDS = 0.1


class PcmPipe:
    """A `LiveAudio` that reads a pipe within the `with` block: raw signed little-endian 16-bit samples, or WAV.

    WAV samples may have any width; blocks hold int16. The pipe is read only as fast as the audio is recognised, so no
    audio is lost; an incomplete sample at the end is ignored.

    Args:
        descriptor: file descriptor of the open pipe.
        sample_rate: Hz; None uses the rate in the WAV header, or RAW_RATE without a header.
        channels: number of interleaved channels; None uses the number in the WAV header, or 1 without a header.
    Raises:
        ValueError: from `blocks`: the header states compressed samples or contradicts the arguments, the bytes are not
            samples (see `PcmCheck`), or there is no audio.

    >>> reader, writer = os.pipe()
    >>> _ = os.write(writer, bytes(1600)), os.close(writer)
    >>> with PcmPipe(reader) as pipe:
    ...     print(sum(block.seconds for block in pipe.blocks()))
    0.05
    """

    lost_seconds = 0.0
    overflows = 0

    def __init__(self, descriptor: int, sample_rate: int | None = None, channels: int | None = None) -> None:
        self._descriptor = descriptor
        self._sample_rate, self._channels = sample_rate, channels
        self._queue = BlockQueue()

    @property
    def description(self) -> str:
        """See `LiveAudio`."""
        return "standard input"

    def blocks(self) -> Iterator[AudioBlock]:
        """Yield blocks of at most 0.1 s until the pipe ends or `stop` is called; see `LiveAudio`."""
        while True:
            block = self._queue.get(POLL_SECONDS)
            if block is not None:
                yield block
            elif self._queue.closed:
                return

    def stop(self) -> None:
        """Stop reading."""
        self._queue.close()

    def __enter__(self) -> PcmPipe:
        # Not every system can interrupt a read, so a thread reads until the end of the pipe or the process.
        threading.Thread(target=self._run, name="pipe", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.close()

    def _run(self) -> None:
        try:
            self._read()
        except (OSError, ValueError) as error:
            self._queue.close(error)
        else:
            self._queue.close()

    def _read(self) -> None:
        start = self._read_up_to(12)
        if is_wav(start):
            self._read_samples(b"", self._read_header())
        else:
            self._read_samples(start, None)

    def _read_samples(self, rest: bytes, header: WavHeader | None) -> None:
        """Put the samples into the queue until the pipe ends or `stop` is called.

        Args:
            rest: raw bytes that were already read.
            header: WAV header of the samples; None if they are raw.
        """
        size = header.data_bytes(None) if header is not None else None
        rate, channels = self._sample_rate or RAW_RATE, self._channels or 1
        check_format(rate, channels)
        check = PcmCheck(channels) if header is None else None
        width = 2 * channels if header is None else header.block
        wanted, total, ended, is_empty = max(1, round(BLOCK_SECONDS * rate)) * width, 0, False, True
        while not ended and not self._queue.closed:
            if header is not None and total == size:
                if (header := self._read_header(header)) is None:
                    break
                rest, size, total, width = b"", header.data_bytes(None), 0, header.block
            left = wanted if size is None else min(wanted, size - total)
            data = os.read(self._descriptor, left) if left else b""
            captured, ended, total = time.monotonic(), not data, total + len(data)
            data = rest + data
            count = len(data) // width
            rest = data[count * width :]
            if count:
                whole = data[: count * width]
                if check is not None:
                    check.feed(whole)
                samples = from_bytes(whole, PCM, 2, channels) if header is None else _int16(whole, header)
                self._queue.put_when_free(AudioBlock(samples, rate, captured))
                is_empty = False
        if check is not None:
            check.end()
        if ended and is_empty:
            raise ValueError("no audio came through the pipe; check the program that writes to it")

    def _read_header(self, before: WavHeader | None = None) -> WavHeader | None:
        """Read the chunks before the next samples, set rate and channels, and return the header; None at the end.

        Args:
            before: header of the previous samples; None at the beginning.
        """
        try:
            header = (
                read_wav_header(self._read_up_to) if before is None else read_following_header(self._read_up_to, before)
            )
        except ValueError as error:
            raise ValueError(f"the pipe: {error}; write raw samples or a valid header") from None
        if header is None:
            return None
        if not header.is_plain:
            raise ValueError(
                f"the pipe's WAV header states format {header.tag} with {header.block} bytes for {header.channels} "
                "channels, expected PCM (arecord -f S16_LE)"
            )
        for name, given, found in (
            ("Hz", self._sample_rate, header.sample_rate),
            ("channels", self._channels, header.channels),
        ):
            if given is not None and given != found:
                raise ValueError(f"the pipe's WAV header states {found} {name}, expected {given} as given")
        self._sample_rate, self._channels = header.sample_rate, header.channels
        return header

    def _read_up_to(self, count: int) -> bytes:
        """Read `count` bytes, or fewer at the end of the pipe."""
        parts, missing = [], count
        while missing:
            part = os.read(self._descriptor, missing)
            if not part:
                break
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)


def _int16(data: bytes, header: WavHeader) -> np.ndarray:
    samples = from_bytes(data, header.tag, header.width, header.channels)
    if samples.dtype == np.int16:
        return samples
    return np.clip(np.rint(to_float(samples) * 32768.0), -32768, 32767).astype(np.int16)
