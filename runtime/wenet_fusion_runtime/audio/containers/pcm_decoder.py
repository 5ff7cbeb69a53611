"""Decode uncompressed WAV from files and pipes."""

from __future__ import annotations

import numpy as np

from wenet_fusion_runtime.audio.containers.byte_ranges import BinaryFile
from wenet_fusion_runtime.audio.containers.sound_decoders import (
    changes_rate,
    check_links,
    ends_too_early,
    skip_by_reading,
)
from wenet_fusion_runtime.audio.sample_formats import from_bytes
from wenet_fusion_runtime.audio.wav_header import WavHeader, read_following_header


class PcmDecoder:
    """Decode uncompressed samples of a WAV file or pipe whose header has been read.

    Args:
        file: open binary file, positioned at the first sample.
        header: header of the file.
        available: number of bytes after the header; None for a pipe.

    >>> import io
    >>> header = WavHeader(tag=1, channels=1, sample_rate=8000, block=2, offset=44, stated=0)
    >>> PcmDecoder(io.BytesIO(bytes([0, 64])), header, available=2).read(9).tolist()
    [[16384]]
    """

    def __init__(self, file: BinaryFile, header: WavHeader, available: int | None) -> None:
        self.sample_rate = header.sample_rate
        self._file, self._header, self._is_seekable = file, header, available is not None
        stated = header.data_bytes(available)
        self._left = None if stated is None else stated // header.block  # frames left; None: to the end of the pipe
        self._count, self._stated, self._chunks = 0, self._left or 0, 1
        self.frames = self._left if available is not None and self._stated * header.block <= available else None

    def read(self, count: int) -> np.ndarray:
        """See `sound_decoders.Decoder`."""
        while self._left == 0 and not self._is_seekable and self._find_more():
            pass
        header = self._header
        wanted = count if self._left is None else min(count, self._left)
        data = self._file.read(wanted * header.block)
        found = len(data) // header.block
        samples = from_bytes(data[: found * header.block], header.tag, header.width, header.channels)
        self._count += found
        if self._left is not None:
            self._left -= found
            if found < wanted and not found:
                raise ends_too_early(self._count, self._stated, self.sample_rate)
        return samples

    def skip(self, count: int) -> None:
        """See `sound_decoders.Decoder`."""
        if not self._is_seekable:
            skip_by_reading(self, count)
            return
        self._file.seek(count * self._header.block, 1)
        self._count += count
        if self._left is not None:
            self._left = max(0, self._left - count)

    def _find_more(self) -> bool:
        """Go to the next samples of a pipe, in another chunk or in a joined file; return whether there are any."""
        header = read_following_header(self._file.read, self._header, self._header.stated % self._header.block)
        if header is None:
            return False
        if not header.is_plain or header.sample_rate != self.sample_rate:
            raise changes_rate(self.sample_rate, header.sample_rate, self._count)
        self._chunks += 1
        check_links(self._chunks)
        self._header, stated = header, header.data_bytes(None)
        self._left = None if stated is None else stated // header.block
        self._stated += self._left or 0
        return True

    def close(self) -> None:
        """See `sound_decoders.Decoder`."""
        self._file.close()
