"""Reads audio files in blocks and resamples streams. Knows neither models nor text."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import soundfile

from wenet_fusion_runtime.audio.resampling import Resampler, to_mono

AudioSource = str | Path | BinaryIO
_ESTIMATED_LENGTH = ("MP3", "MPEG")  # formats whose headers do not tell the exact length
# libsndfile counts the frames of a truncated wav down to what is there; only its log tells the size that was stated.
_WAV_FORMATS = ("WAV", "WAVEX")
_WAV_DATA = re.compile(r"^data : (\d+)(?: \(should be (\d+)\))?", re.MULTILINE)
_WAV_PLACEHOLDER = 0x7FFF0000  # bytes; programs that write wav to a pipe state 0, or 2 or 4 GiB or a little less


class _SequentialFile(soundfile.SoundFile):
    """soundfile seeks after each read of a seekable file, which breaks mp3: its decoder forgets the bits saved up for
    the next frames. Told that it cannot seek, it reads on, and does not trust the header's length either."""

    def seekable(self) -> bool:
        return False


class AudioReader:
    """An audio file of any format that libsndfile reads (wav, flac, ogg, opus, mp3, ...), as float32 mono.

    A file that was cut off is detected in wav (unless it was written to a pipe, without a true size) and flac. It
    cannot be detected in mp3 and ogg, which do not tell their length.

    Args:
        source: path, or an open binary file. Of a pipe only wav can be read.
        name: what messages call the source; default is its path.
    Raises:
        OSError: the path is missing or a directory.
        ValueError: the file is empty or no audio that libsndfile knows.
    """

    def __init__(self, source: AudioSource, name: str | None = None) -> None:
        is_path, is_pipe = isinstance(source, (str, Path)), False
        self.name = name or (str(source) if is_path else str(getattr(source, "name", "audio")))
        if is_path:
            path = Path(source)
            if not path.exists():
                raise FileNotFoundError(f"{self.name}: no such audio file")
            if path.is_dir():
                raise IsADirectoryError(f"{self.name}: is a directory, not an audio file")
            status = path.stat()
            is_pipe = stat.S_ISFIFO(status.st_mode)
            if stat.S_ISREG(status.st_mode):
                if status.st_size == 0:
                    raise ValueError(f"{self.name}: is an empty file")
                path.open("rb").close()  # libsndfile would not say that permission is missing
        try:
            self._file = _SequentialFile(str(source) if is_path else source)
        except soundfile.LibsndfileError as error:
            remedy = "convert it to wav or flac"
            if is_pipe:
                remedy = "of a pipe only wav can be read, save it to a file first"
            raise ValueError(
                f"{self.name}: cannot be read as audio ({error.error_string.rstrip('.')}); {remedy}"
            ) from None
        except TypeError:  # by its suffix libsndfile takes it for headerless samples, and asks for their rate
            raise ValueError(f"{self.name}: is audio without a header; convert it to wav or flac") from None
        self.sample_rate: int = self._file.samplerate

    @property
    def seconds(self) -> float:
        """Duration that the header states."""
        return self._file.frames / self.sample_rate

    def blocks(self, seconds: float = 0.5, start: float = 0.0, end: float | None = None) -> Iterator[np.ndarray]:
        """Consecutive blocks (n,) from `start` to `end` (seconds; None is the end of the file), n >= 1.

        Raises:
            ValueError: there are no samples, the file is damaged (after its good blocks), or `start` and `end` are
                not inside it.
        """
        first = round(start * self.sample_rate)
        left = None if end is None else round(end * self.sample_rate) - first
        if first < 0 or (left is not None and left <= 0) or (first and first >= self._file.frames):
            raise ValueError(f"{self.name}: has {self.seconds:.3f} s, cannot take start {start} to end {end} of it")
        size, count = max(1, round(seconds * self.sample_rate)), 0
        try:
            if first:
                self._file.seek(first)
            while left is None or count < left:
                wanted = size if left is None else min(size, left - count)
                block = self._file.read(wanted, dtype="float32", always_2d=True)
                if not len(block):
                    break
                count += len(block)
                yield to_mono(block)
        except soundfile.LibsndfileError as error:
            raise ValueError(
                f"{self.name}: is damaged after {count / self.sample_rate:.2f} s ({error.error_string.rstrip('.')})"
            ) from None
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None
        if not count:
            raise ValueError(f"{self.name}: has no samples")
        expected = self._stated_frames() - first if left is None else left
        if count < expected and self._file.format not in _ESTIMATED_LENGTH:
            raise ValueError(
                f"{self.name}: is damaged or ends too early, found {count / self.sample_rate:.2f} s "
                f"of {expected / self.sample_rate:.2f} s"
            )

    def _stated_frames(self) -> int:
        """Frames that the header promises; 0 if it promises nothing."""
        found = _WAV_DATA.search(self._file.extra_info) if self._file.format in _WAV_FORMATS else None
        if found is None:
            return self._file.frames
        stated, present = int(found[1]), int(found[2] or found[1])
        return 0 if stated >= _WAV_PLACEHOLDER or not present else self._file.frames * stated // present

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load_audio(
    source: AudioSource, sample_rate: int, start: float = 0.0, end: float | None = None, name: str | None = None
) -> np.ndarray:
    """All samples (n,) between `start` and `end` (seconds), float32 mono at `sample_rate`, as a stream would get them.

    Raises:
        OSError, ValueError: see `AudioReader`.
    """
    with AudioReader(source, name) as reader:
        resampler = Resampler(reader.sample_rate, sample_rate)
        blocks = [resampler.process(block) for block in reader.blocks(start=start, end=end)]
    blocks.append(resampler.process(np.zeros(0, dtype=np.float32), last=True))
    return np.concatenate(blocks)
