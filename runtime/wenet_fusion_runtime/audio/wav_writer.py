"""Record live audio into a wav file that is always valid."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from types import TracebackType

import numpy as np

from wenet_fusion_runtime.files import append_whole

MAX_BYTES = 0xFFFFFFFF - 1024  # most bytes of samples in a file; a wav header counts bytes in 32 bits


class WavWriter:
    """Write int16 samples to a wav file as they arrive.

    The first block creates the file, and every block updates its header: if the process is killed, at most the last
    block is missing. After 4 GiB (12 hours at 48 kHz, mono) the recording continues in NAME-2.wav.

    Args:
        path: file to create; it must not exist, because a recording cannot be repeated.
        max_bytes: most bytes of samples in one file.
    Raises:
        ValueError: the name does not end in .wav.
        OSError: the file exists, or its folder does not; from `write` also if the disk is full.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "talk.wav")
    >>> with WavWriter(path) as writer:
    ...     writer.write(np.zeros((800, 1), np.int16), 16000)
    >>> path.stat().st_size
    1644
    """

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        if path.suffix.lower() != ".wav":
            raise ValueError(f"{path}: audio is saved as wav; choose a name that ends in .wav")
        if path.exists():
            raise FileExistsError(f"{path}: exists already; choose another name, or remove it")
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path}: its folder does not exist; make it, or choose another name")
        self.paths: list[Path] = []  # files written so far
        self.seconds = 0.0  # length of the audio in these files
        self._path, self._max_bytes, self._bytes = path, max_bytes, 0
        self._file: io.FileIO | None = None

    def write(self, samples: np.ndarray, sample_rate: int) -> None:
        """Append samples (n, channels) int16; rate (Hz) and channels must be the same in all calls.

        Raises:
            OSError: the disk is full; the file holds all earlier blocks completely.
        """
        file, channels = self._file, samples.shape[1]
        if file is None or self._bytes + samples.nbytes > self._max_bytes:
            self.close()
            file = self._begin(channels, sample_rate)
        append_whole(file, samples.astype("<i2", copy=False).tobytes())
        self._bytes += samples.nbytes
        self.seconds += len(samples) / sample_rate
        file.seek(0)
        file.write(_header(channels, sample_rate, self._bytes))  # overwrites bytes, so it needs no more space

    def close(self) -> None:
        """Close the file if one was begun; its header is complete after each block."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _begin(self, channels: int, sample_rate: int) -> io.FileIO:
        number = len(self.paths) + 1
        path = self._path if number == 1 else self._path.with_stem(f"{self._path.stem}-{number}")
        self._file, self._bytes = io.FileIO(path, "x+"), 0
        self.paths.append(path)
        append_whole(self._file, _header(channels, sample_rate, 0))
        return self._file

    def __enter__(self) -> WavWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _header(channels: int, sample_rate: int, data_bytes: int) -> bytes:
    """Return the 44 bytes before the samples of a wav file of 16-bit PCM."""
    frame = 2 * channels
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, sample_rate, sample_rate * frame, frame, 16)
    return struct.pack("<4sI4s", b"RIFF", 36 + data_bytes, b"WAVE") + form + struct.pack("<4sI", b"data", data_bytes)
