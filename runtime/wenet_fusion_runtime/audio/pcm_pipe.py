"""Live audio from a pipe: 16-bit PCM, raw or with a wav header."""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Iterator
from types import TracebackType

import numpy as np

from wenet_fusion_runtime.audio.live_audio import AudioBlock, BlockQueue
from wenet_fusion_runtime.audio.resampling import MAX_CHANNELS

RAW_RATE = 16000
ARECORD = f"arecord -t raw -f S16_LE -r {RAW_RATE} -c 1"  # a command that writes to such a pipe
BLOCK_SECONDS = 0.1
POLL_SECONDS = 0.1
_MAX_CHUNK = 1 << 20  # bytes of one chunk of the header
_PCM, _EXTENSIBLE = 1, 0xFFFE
SIZE_UNKNOWN = 0x7FFF0000  # bytes; programs that write wav to a pipe state a size of 0 or about 2 or 4 GiB


class PcmPipe:
    """A `LiveAudio` that reads signed little-endian 16-bit samples from a pipe within `with`.

    A wav header is recognised and obeyed. The pipe is read only as fast as the audio is recognised, so no audio is
    lost; an incomplete sample at its end is ignored.

    Args:
        descriptor: file descriptor of the open pipe.
        sample_rate: Hz; None uses the wav header's, or RAW_RATE without a header.
        channels: interleaved channels; None uses the wav header's, or 1 without a header.
    Raises:
        ValueError: from `blocks`: the header states another format or contradicts the arguments, or there is no audio.

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
        """Yield blocks of 0.1 s until the pipe ends or `stop`; see `LiveAudio`."""
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
        rest, size = self._exactly(12), None
        if rest[:4] == b"RIFF" and rest[8:] == b"WAVE":
            rest, size = b"", self._read_header()
        rate, channels = self._sample_rate or RAW_RATE, self._channels or 1
        width = 2 * channels
        wanted, total, ended, is_empty = max(1, round(BLOCK_SECONDS * rate)) * width, 0, False, True
        while not ended and not self._queue.closed:
            left = wanted if size is None else min(wanted, size - total)
            data = os.read(self._descriptor, left) if left else b""
            captured, ended, total = time.monotonic(), not data, total + len(data)
            data = rest + data
            count = len(data) // width
            rest = data[count * width :]
            if count:
                samples = np.frombuffer(data, dtype="<i2", count=count * channels).astype(np.int16, copy=False)
                self._queue.put_when_free(AudioBlock(samples.reshape(count, channels), rate, captured))
                is_empty = False
        if ended and is_empty:
            raise ValueError("no audio came through the pipe; check the program that writes to it")

    def _read_header(self) -> int | None:
        """Read the chunks between "WAVE" and the samples; set rate and channels.

        Returns:
            Number of bytes of samples; None if the header does not state it.
        """
        format_known = False
        while True:
            kind, size = struct.unpack("<4sI", self._exactly(8).ljust(8, b"\xff"))
            if kind == b"data" and format_known:
                return size if 0 < size < SIZE_UNKNOWN else None
            content = self._exactly(min(size + size % 2, _MAX_CHUNK))
            if len(content) < size or (kind == b"fmt " and size < 16):
                raise ValueError("the pipe's wav header is damaged or cut off; write raw samples or a valid header")
            if kind == b"fmt ":
                tag, channels, rate, _, _, bits = struct.unpack("<HHIIHH", content[:16])
                if not 1 <= channels <= MAX_CHANNELS or not rate:
                    raise ValueError(
                        f"the pipe's wav header states {channels} channels at {rate} Hz, expected 1 to {MAX_CHANNELS} "
                        "channels and a positive rate"
                    )
                if tag not in (_PCM, _EXTENSIBLE) or bits != 16:
                    raise ValueError(
                        f"the pipe's wav header states format {tag} with {bits} bits, expected 16-bit PCM "
                        "(arecord -f S16_LE)"
                    )
                self._agree(rate, channels)
                format_known = True

    def _agree(self, rate: int, channels: int) -> None:
        for name, given, found in (("Hz", self._sample_rate, rate), ("channels", self._channels, channels)):
            if given is not None and given != found:
                raise ValueError(f"the pipe's wav header states {found} {name}, expected {given} as given")
        self._sample_rate, self._channels = rate, channels

    def _exactly(self, count: int) -> bytes:
        """Read `count` bytes; fewer at the end of the pipe."""
        parts, missing = [], count
        while missing:
            part = os.read(self._descriptor, missing)
            if not part:
                break
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)
