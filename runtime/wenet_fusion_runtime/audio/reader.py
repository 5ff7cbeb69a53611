"""Read audio files of any format, in blocks or whole."""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np

from wenet_fusion_runtime.audio.containers.byte_ranges import BinaryFile
from wenet_fusion_runtime.audio.containers.opening import open_decoder
from wenet_fusion_runtime.audio.resampling import CANCELLED, ChannelMixer, Resampler

AudioSource = str | Path | BinaryFile
_LOAD_SECONDS = 10.0  # audio that is read at once when a file is loaded whole
_COUNT_SECONDS = 5.0  # audio that is read at once to count the samples of a file


class AudioReader:
    """Read an audio file as float32 mono: WAV, FLAC, Ogg, Opus, mp3 and other formats of libsndfile; AAC, WebM, WMA,
    Speex and more with the extra `media`.

    The format is detected from the contents, not from the name. A file is read completely, even if it contains several
    streams or its header lacks the length; a file that cannot be read completely raises an error. Truncated audio is
    detected if the format states the length and the decoder checks it (WAV, FLAC, AIFF, MP4, ...); see docs/audio.md.

    Args:
        source: path, or an open binary file. From a file that cannot seek (a pipe), uncompressed WAV is decoded as it
            arrives, and other formats are copied first.
        name: name of the source in messages; by default its path.
        channel: number of the channel to read, from 1; 0 reads the mean of all channels; None also reads the mean, but
            raises an error if the channels cancel each other.
    Raises:
        OSError: the path is missing or a directory.
        ValueError: the file is empty or not audio, or its format needs the extra `media`.

    >>> import io, soundfile
    >>> file = io.BytesIO()
    >>> soundfile.write(file, np.zeros((8000, 2)), 16000, format="WAV")
    >>> with AudioReader(file) as reader:
    ...     print(reader.sample_rate, [block.shape for block in reader.blocks(seconds=0.2)])
    16000 [(3200,), (3200,), (1600,)]
    """

    def __init__(self, source: AudioSource, name: str | None = None, channel: int | None = None) -> None:
        self.name = name or str(source if isinstance(source, (str, Path)) else getattr(source, "name", "audio"))
        if isinstance(source, (str, Path)):
            _check_path(Path(source), self.name)
        self._source, self._mixer = source, ChannelMixer(channel)
        try:
            self._decoder = open_decoder(source)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None
        self.sample_rate: int = self._decoder.sample_rate

    @property
    def seconds(self) -> float:
        """Duration. If the format does not state it, the whole file is decoded to count the samples.

        Raises:
            ValueError: the duration is not stated, and the file is damaged or a pipe.
        """
        frames = self._decoder.frames
        return (self._count() if frames is None else frames) / self.sample_rate

    def blocks(self, seconds: float = 0.5, start: float = 0.0, end: float | None = None) -> Iterator[np.ndarray]:
        """Yield consecutive blocks of samples (n,), none of them empty. Call it once.

        Args:
            seconds: length of a block; the last one may be shorter.
            start: seconds at which to begin.
            end: seconds at which to end; None is the end of the file.
        Raises:
            ValueError: the file has no samples, is damaged (raised after its good blocks), is shorter than `start` or
                `end`, or its channels cancel each other; or `start` is negative or not before `end`.
        """
        first = round(start * self.sample_rate)
        left = None if end is None else round(end * self.sample_rate) - first
        total = self._decoder.frames
        if first < 0 or (left is not None and left <= 0) or (first and total is not None and first >= total):
            raise ValueError(f"{self.name}: has {self.seconds:.3f} s, cannot take {start} s to {end} s of it")
        size, count, damage = max(1, round(seconds * self.sample_rate)), 0, None
        try:
            if first:
                self._decoder.skip(first)
        except ValueError as error:
            damage = error
        while damage is None and (left is None or count < left):
            block, damage = self._read(size if left is None else min(size, left - count))
            if not len(block):
                break
            count += len(block)
            yield block
        if damage is not None:
            raise ValueError(f"{self.name}: {damage}")
        if not count:
            raise ValueError(f"{self.name}: has no samples")
        if left is not None and count < left:
            raise ValueError(
                f"{self.name}: is damaged or ends too early, found {count / self.sample_rate:.2f} s of "
                f"{left / self.sample_rate:.2f} s"
            )
        if self._mixer.cancels:
            raise ValueError(f"{self.name}: {CANCELLED}")

    def _read(self, wanted: int) -> tuple[np.ndarray, ValueError | None]:
        """Return the next `wanted` samples and None; at an error, the samples before it and the error."""
        parts: list[np.ndarray] = []
        damage = None
        try:
            while wanted and len(part := self._decoder.read(wanted)):
                parts.append(self._mixer.mix(part))
                wanted -= len(part)
        except ValueError as error:
            damage = error
        if len(parts) == 1:
            return parts[0], damage
        return np.concatenate([np.zeros(0, np.float32), *parts]), damage

    def _count(self) -> int:
        """Return the number of samples, by decoding all of them again."""
        if not isinstance(self._source, (str, Path)) and not self._source.seekable():
            raise ValueError(f"{self.name}: is a pipe, whose length is known only at its end")
        decoder = open_decoder(self._source)
        try:
            count, size = 0, round(_COUNT_SECONDS * self.sample_rate)
            while found := len(decoder.read(size)):
                count += found
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None
        finally:
            decoder.close()
        return count

    def close(self) -> None:
        """Close the file, unless the caller has opened it."""
        self._decoder.close()

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load_audio(
    source: AudioSource,
    sample_rate: int,
    start: float = 0.0,
    end: float | None = None,
    name: str | None = None,
    channel: int | None = None,
    longest: float = math.inf,
) -> np.ndarray:
    """Read a file, or a part of it, resampled as a stream would resample it.

    Args:
        source: see `AudioReader`.
        sample_rate: sample rate of the result, Hz.
        start: seconds at which to begin.
        end: seconds at which to end; None is the end of the file.
        name: see `AudioReader`.
        channel: see `AudioReader`.
        longest: limit of the result's length, seconds. Longer audio is decoded up to 10 s beyond it, then refused.
    Returns:
        (n,) float32 mono.
    Raises:
        OSError, ValueError: see `AudioReader` and its `blocks`; ValueError also if the result would exceed `longest`.
    """
    blocks = []
    with AudioReader(source, name, channel) as reader:
        resampler, room = Resampler(reader.sample_rate, sample_rate), longest * reader.sample_rate
        for block in reader.blocks(_LOAD_SECONDS, start, end):
            room -= len(block)
            if room < 0:
                raise ValueError(f"{reader.name}: lasts more than {longest:.1f} s")
            blocks.append(resampler.process(block))
    blocks.append(resampler.process(np.zeros(0, dtype=np.float32), last=True))
    return np.concatenate(blocks)


def _check_path(path: Path, name: str) -> None:
    """Raise OSError or ValueError unless the path can be read."""
    if not path.exists():
        raise FileNotFoundError(f"{name}: no such audio file")
    if path.is_dir():
        raise IsADirectoryError(f"{name}: is a directory, not an audio file")
    status = path.stat()
    if stat.S_ISREG(status.st_mode) and status.st_size == 0:
        raise ValueError(f"{name}: is an empty file")
