"""Reads 16-bit PCM from a pipe while it is being written, bare or as wav. Knows no device and no model."""

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
ARECORD = f"arecord -t raw -f S16_LE -r {RAW_RATE} -c 1"  # how to feed such a pipe
BLOCK_SECONDS = 0.1
POLL_SECONDS = 0.1
_MAX_HEADER = 1 << 20  # bytes of one part of it
_PCM, _EXTENSIBLE = 1, 0xFFFE
_SIZE_UNKNOWN = 0x7FFF0000  # bytes; programs that write wav to a pipe state 0, or 2 or 4 GiB or a little less


class PcmPipe:
    """Signed little-endian 16-bit samples from a pipe that is read within `with`, a `LiveAudio`.

    What begins with the header of a wav file, as arecord writes it unless told otherwise, is read as such. A pipe is
    never read faster than it is recognised, and nothing of it is lost here but an incomplete sample at its end.

    Args:
        descriptor: of the open pipe.
        sample_rate: Hz; None is what the header says, or RAW_RATE without one.
        channels: interleaved; None is what the header says, or one.
    Raises:
        ValueError: from `blocks`: the header is of another format or contradicts the arguments, or there is no audio.
    """

    overflows = 0
    lost_seconds = 0.0

    def __init__(self, descriptor: int, sample_rate: int | None = None, channels: int | None = None) -> None:
        self._descriptor = descriptor
        self._sample_rate, self._channels = sample_rate, channels
        self._queue = BlockQueue()

    @property
    def description(self) -> str:
        return "standard input"

    def blocks(self) -> Iterator[AudioBlock]:
        while True:
            block = self._queue.get(POLL_SECONDS)
            if block is not None:
                yield block
            elif self._queue.closed:
                return

    def stop(self) -> None:
        self._queue.close()

    def __enter__(self) -> PcmPipe:
        # A thread, since a read cannot be interrupted everywhere; it ends with the pipe or the process.
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
        wanted, total, ended, heard = max(1, round(BLOCK_SECONDS * rate)) * width, 0, False, False
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
                heard = True
        if ended and not heard:
            raise ValueError("no audio came through the pipe; did the program before it fail?")

    def _read_header(self) -> int | None:
        """What follows RIFF, size, WAVE up to the samples; sets rate and channels. Returns the samples' bytes if known."""
        format_known = False
        while True:
            kind, size = struct.unpack("<4sI", self._exactly(8).ljust(8, b"\xff"))
            if kind == b"data" and format_known:
                return size if 0 < size < _SIZE_UNKNOWN else None
            content = self._exactly(min(size + size % 2, _MAX_HEADER))
            if len(content) < size or (kind == b"fmt " and size < 16):
                raise ValueError("the wav header that came through the pipe is damaged or cut off")
            if kind == b"fmt ":
                tag, channels, rate, _, _, bits = struct.unpack("<HHIIHH", content[:16])
                if not 1 <= channels <= MAX_CHANNELS or not rate:
                    raise ValueError(f"the pipe's wav header tells of {channels} channels at {rate} Hz")
                if tag not in (_PCM, _EXTENSIBLE) or bits != 16:
                    raise ValueError(
                        f"the pipe's wav header tells of format {tag} with {bits} bits, expected 16-bit PCM "
                        "(arecord -f S16_LE)"
                    )
                self._agree(rate, channels)
                format_known = True

    def _agree(self, rate: int, channels: int) -> None:
        for name, given, found in (("Hz", self._sample_rate, rate), ("channels", self._channels, channels)):
            if given is not None and given != found:
                raise ValueError(f"the pipe's wav header tells of {found} {name}, {given} {name} were asked for")
        self._sample_rate, self._channels = rate, channels

    def _exactly(self, count: int) -> bytes:
        """So many bytes, fewer at the end of the pipe."""
        parts, missing = [], count
        while missing:
            part = os.read(self._descriptor, missing)
            if not part:
                break
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)
