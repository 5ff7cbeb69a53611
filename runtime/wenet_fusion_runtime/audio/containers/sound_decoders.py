"""The interface of audio decoders, which return samples in order, and the decoders that use libsndfile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import soundfile

from wenet_fusion_runtime.audio.containers.byte_ranges import BinaryFile, FileParts, FileRange, Link
from wenet_fusion_runtime.audio.sample_formats import check_format

_MOST_FRAMES = 1 << 35  # 25 days at 16 kHz; libsndfile reports 2 ** 63 - 1 for FLAC of unknown length
_TOLERANCE_SECONDS = 0.1  # audio that may be missing from the counted length of mp3
MOST_LINKS = 2000  # most streams of a file; opening each one takes time
_MPEG_LEAD = 32 * 1152  # samples that are decoded before the target of a seek in mp3
_SKIPPED = 1 << 16  # frames that are dropped at once


class Decoder(Protocol):
    """Returns the samples of a file, from its beginning to its end."""

    sample_rate: int  # Hz
    frames: int | None  # samples per channel; None if only decoding can count them

    def read(self, count: int) -> np.ndarray:
        """Return at most `count` of the next samples (n, channels), float32 or int16; an empty array at the end.

        Raises:
            ValueError: the audio is damaged, or ends too early.
        """

    def skip(self, count: int) -> None:
        """Skip `count` samples per channel."""

    def close(self) -> None:
        """Close the file."""


def skip_by_reading(decoder: Decoder, count: int) -> None:
    """Skip `count` samples of a decoder that cannot seek exactly."""
    while count and len(block := decoder.read(min(count, _SKIPPED))):
        count -= len(block)


class SoundfileDecoder:
    """A `Decoder` of a file that libsndfile can read.

    Args:
        source: path, or open file.
        expected: counted number of samples per channel; `read` raises ValueError if there are fewer.
    Raises:
        soundfile.LibsndfileError: libsndfile cannot read the file.
        TypeError: libsndfile mistakes the file for samples without a header.
        ValueError: the header states an impossible format.

    >>> import io
    >>> file = io.BytesIO()
    >>> soundfile.write(file, np.zeros((800, 2)), 16000, format="FLAC")
    >>> _ = file.seek(0)
    >>> decoder = SoundfileDecoder(file)
    >>> decoder.sample_rate, decoder.frames, decoder.read(9999).shape
    (16000, 800, (800, 2))
    """

    def __init__(self, source: str | bytes | BinaryFile, expected: int | None = None) -> None:
        self._file = _SequentialFile(source)
        self.format: str = self._file.format
        self.sample_rate: int = self._file.samplerate
        self.frames = expected if expected is not None else _known(self._file.frames)
        self._expected, self._count = self.frames, 0
        try:
            check_format(self.sample_rate, self._file.channels)
        except ValueError as error:
            self.close()
            raise ValueError(f"its header is wrong: {error}") from None

    @property
    def log(self) -> str:
        """The log of libsndfile about the header."""
        return str(self._file.extra_info)

    def expect(self, frames: int) -> None:
        """Declare that the file has `frames` samples per channel: `read` raises ValueError if it ends earlier."""
        self._expected, self.frames = frames, None

    def read(self, count: int) -> np.ndarray:
        """See `Decoder`."""
        if self.format == "FLAC" and self.frames is not None:  # if another stream follows, stop before it
            count = min(count, max(0, self.frames - self._count))
        try:
            block = self._file.read(count, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise _damaged(self._count, self.sample_rate, error.error_string) from None
        self._count += len(block)
        if not len(block) and self._expected is not None:
            slack = _TOLERANCE_SECONDS * self.sample_rate if self.format == "MP3" else 0
            if self._count + slack < self._expected:
                raise ends_too_early(self._count, self._expected, self.sample_rate)
        return block

    def skip(self, count: int) -> None:
        """See `Decoder`."""
        if self.format == "MP3":  # a frame needs bits from earlier frames
            far = max(0, count - _MPEG_LEAD)
            self._seek(far)
            skip_by_reading(self, count - far)
        else:
            self._seek(count)

    def _seek(self, count: int) -> None:
        if count:
            self._file.seek(count, 1)
            self._count += count

    def close(self) -> None:
        """See `Decoder`."""
        self._file.close()


class ChainDecoder:
    """Decode consecutive streams of a file as one.

    Args:
        file: open binary file.
        links: the streams, at least one.
        open_link: opens the decoder of a stream.
        find_more: returns further streams; called at the end of the last one of `links`.
    Raises:
        Exception: raised by `open_link`.

    >>> import io
    >>> file = io.BytesIO()
    >>> soundfile.write(file, np.zeros((800, 2)), 16000, format="FLAC")
    >>> content = file.getvalue()
    >>> links = [Link(0, len(content)), Link(len(content), 2 * len(content))]
    >>> decoder = ChainDecoder(io.BytesIO(content + content), links, open_link)
    >>> len(decoder.read(9999)), len(decoder.read(9999)), len(decoder.read(9999))
    (800, 800, 0)
    """

    def __init__(
        self,
        file: BinaryFile,
        links: Sequence[Link],
        open_link: Callable[[BinaryFile, Link], Decoder],
        find_more: Callable[[], list[Link]] = list,
    ) -> None:
        check_links(len(links))
        self._file, self._links, self._open, self._find_more = file, list(links), open_link, find_more
        self._current = self._next()
        self.sample_rate = self._current.sample_rate
        self.frames = None if self._links else self._current.frames
        if all(link.frames is not None for link in links):
            self.frames = sum(link.frames or 0 for link in links)
        self._count = 0

    def read(self, count: int) -> np.ndarray:
        """See `Decoder`."""
        while True:
            block = self._current.read(count)
            if not len(block) and not self._links:
                self._links, self._find_more = self._find_more(), list
                check_links(len(self._links))
            if len(block) or not self._links:
                self._count += len(block)
                return block
            try:
                following = self._next()
            except soundfile.LibsndfileError as error:
                raise _damaged(self._count, self.sample_rate, error.error_string) from None
            self._current.close()
            self._current = following
            if following.sample_rate != self.sample_rate:
                raise changes_rate(self.sample_rate, following.sample_rate, self._count)

    def skip(self, count: int) -> None:
        """See `Decoder`."""
        if self._links:
            skip_by_reading(self, count)
        else:
            self._current.skip(count)

    def close(self) -> None:
        """See `Decoder`."""
        self._current.close()
        self._file.close()

    def _next(self) -> Decoder:
        return self._open(self._file, self._links.pop(0))


def check_links(count: int) -> None:
    """Raise ValueError if a file consists of too many streams."""
    if count > MOST_LINKS:
        raise ValueError(f"consists of more than {MOST_LINKS} joined recordings; split it")


def open_link(file: BinaryFile, link: Link) -> SoundfileDecoder:
    """Return a decoder of one stream of a file; see `SoundfileDecoder`."""
    whole = len(link.parts) < 2
    source = (
        FileRange(file, link.start, link.end, link.is_endless)
        if whole
        else FileParts(file, link.parts, link.is_endless)
    )
    return SoundfileDecoder(source, link.frames)


def changes_rate(before: int, after: int, count: int) -> ValueError:
    """Return the error for a change of the sample rate, or of the sample format if the rates are equal, after `count`
    samples.

    >>> changes_rate(8000, 8000, 16000)
    ValueError('changes its sample format after 2.00 s; convert it to one sample rate and format')
    """
    change = f"changes from {before} to {after} Hz" if after != before else "changes its sample format"
    return ValueError(f"{change} after {count / before:.2f} s; convert it to one sample rate and format")


def ends_too_early(found: int, expected: int, sample_rate: int) -> ValueError:
    """Return the error for audio with fewer samples than stated."""
    return ValueError(
        f"is damaged or ends too early, found {found / sample_rate:.2f} s of {expected / sample_rate:.2f} s"
    )


class _SequentialFile(soundfile.SoundFile):
    """A file that soundfile treats as not seekable.

    soundfile seeks after each read of a seekable file, and after a seek the mp3 decoder lacks the bit reservoir of the
    previous frames. For a file that is not seekable, soundfile also ignores the length in the header.
    """

    def seekable(self) -> bool:
        return False


def _known(frames: int) -> int | None:
    return frames if frames < _MOST_FRAMES else None


def _damaged(count: int, sample_rate: int, cause: str) -> ValueError:
    return ValueError(f"is damaged after {count / sample_rate:.2f} s ({cause.rstrip('.')})")
