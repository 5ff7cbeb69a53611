"""Read audio files of any format that libsndfile supports, in blocks or whole."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import soundfile

from wenet_fusion_runtime.audio.pcm_pipe import SIZE_UNKNOWN
from wenet_fusion_runtime.audio.resampling import Resampler, to_mono

AudioSource = str | Path | BinaryIO
_BYTE_NAMES = os.name == "posix"
_ESTIMATED_LENGTH = ("MP3", "MPEG")  # formats whose headers do not state the exact length
# libsndfile counts only the frames that a truncated wav holds; the size that its header states is in the log alone.
_WAV_FORMATS = ("WAV", "WAVEX")
_WAV_DATA = re.compile(r"^data : (\d+)(?: \(should be (\d+)\))?", re.MULTILINE)


class _SequentialFile(soundfile.SoundFile):
    """A file that is only read forwards.

    soundfile seeks after each read of a seekable file, and after a seek the mp3 decoder lacks the bit reservoir of the
    previous frames. For a file that is not seekable it also does not rely on the length in the header.
    """

    def seekable(self) -> bool:
        return False


class AudioReader:
    """Read an audio file (wav, flac, ogg, opus, mp3, ...) as float32 mono.

    Truncated files are detected in flac, and in wav unless it was written to a pipe, without its size. They cannot be
    detected in mp3 and ogg, which do not state their length.

    Args:
        source: path, or an open binary file. A pipe must hold wav.
        name: name of the source in messages; by default its path.
    Raises:
        OSError: the path is missing or a directory.
        ValueError: the file is empty or not in a format that libsndfile supports.

    >>> import io
    >>> file = io.BytesIO()
    >>> soundfile.write(file, np.zeros((8000, 2)), 16000, format="WAV")
    >>> _ = file.seek(0)
    >>> with AudioReader(file) as reader:
    ...     print(reader.sample_rate, [block.shape for block in reader.blocks(seconds=0.2)])
    16000 [(3200,), (3200,), (1600,)]
    """

    def __init__(self, source: AudioSource, name: str | None = None) -> None:
        self.name = name or str(source if isinstance(source, (str, Path)) else getattr(source, "name", "audio"))
        remedy = "convert it to wav or flac"
        if isinstance(source, (str, Path)):
            source = str(source)
            if _check_path(Path(source), self.name):
                remedy = "a pipe must hold wav; save other formats to a file first"
        try:
            # soundfile cannot encode names that are not UTF-8.
            self._file = _SequentialFile(os.fsencode(source) if isinstance(source, str) and _BYTE_NAMES else source)
        except soundfile.LibsndfileError as error:
            raise ValueError(
                f"{self.name}: cannot be read as audio ({error.error_string.rstrip('.')}); {remedy}"
            ) from None
        except TypeError:  # libsndfile takes the suffix for that of samples without a header, and needs their rate
            raise ValueError(f"{self.name}: is audio without a header; convert it to wav or flac") from None
        self.sample_rate: int = self._file.samplerate

    @property
    def seconds(self) -> float:
        """Duration according to the header."""
        return self._file.frames / self.sample_rate

    def blocks(self, seconds: float = 0.5, start: float = 0.0, end: float | None = None) -> Iterator[np.ndarray]:
        """Yield consecutive blocks of samples (n,), none of them empty.

        Args:
            seconds: length of a block; the last one may be shorter.
            start: where to begin, in seconds.
            end: where to end, in seconds; None is the end of the file.
        Raises:
            ValueError: the file has no samples, is damaged (raised after its good blocks), or is shorter than `start`
                or `end`.
        """
        first = round(start * self.sample_rate)
        left = None if end is None else round(end * self.sample_rate) - first
        if first < 0 or (left is not None and left <= 0) or (first and first >= self._file.frames):
            raise ValueError(f"{self.name}: has {self.seconds:.3f} s, cannot take {start} s to {end} s of it")
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
        """Number of frames that the header states; 0 if it states none."""
        found = _WAV_DATA.search(self._file.extra_info) if self._file.format in _WAV_FORMATS else None
        if found is None:
            return self._file.frames
        stated, present = int(found[1]), int(found[2] or found[1])
        return 0 if stated >= SIZE_UNKNOWN or not present else self._file.frames * stated // present

    def close(self) -> None:
        """Close the file."""
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
    """Read a file, or a part of it, resampled as a stream would resample it.

    Args:
        source: see `AudioReader`.
        sample_rate: of the result, Hz.
        start: where to begin, in seconds.
        end: where to end, in seconds; None is the end of the file.
        name: see `AudioReader`.
    Returns:
        (n,) float32 mono.
    Raises:
        OSError, ValueError: see `AudioReader`.
    """
    with AudioReader(source, name) as reader:
        resampler = Resampler(reader.sample_rate, sample_rate)
        blocks = [resampler.process(block) for block in reader.blocks(start=start, end=end)]
    blocks.append(resampler.process(np.zeros(0, dtype=np.float32), last=True))
    return np.concatenate(blocks)


def _check_path(path: Path, name: str) -> bool:
    """Raise OSError or ValueError unless the path can be read; return whether it is a pipe."""
    if not path.exists():
        raise FileNotFoundError(f"{name}: no such audio file")
    if path.is_dir():
        raise IsADirectoryError(f"{name}: is a directory, not an audio file")
    status = path.stat()
    if stat.S_ISREG(status.st_mode):
        if status.st_size == 0:
            raise ValueError(f"{name}: is an empty file")
        path.open("rb").close()  # libsndfile does not report a missing permission
    return stat.S_ISFIFO(status.st_mode)
