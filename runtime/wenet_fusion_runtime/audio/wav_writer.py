"""Record live audio into a wav file that is valid at every moment."""

from __future__ import annotations

import wave
from pathlib import Path
from types import TracebackType

import numpy as np

MAX_BYTES = 0xFFFFFFFF - 1024  # bytes of samples in a file; a wav header counts bytes in 32 bits


class WavWriter:
    """Write int16 samples to a wav file as they come.

    The file is created with the first block, and its header is updated after each block: if the process is killed, at
    most the last block is missing. After 4 GiB (12 hours at 48 kHz, mono) the recording continues in NAME-2.wav.

    Args:
        path: file to create; it must not exist, since a recording cannot be repeated.
        max_bytes: bytes of samples in one file.
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
        self._path, self._max_bytes, self._bytes = path, max_bytes, 0
        self._wave: wave.Wave_write | None = None

    def write(self, samples: np.ndarray, sample_rate: int) -> None:
        """Append samples (n, channels) int16; rate (Hz) and channels must be the same in all calls."""
        file = self._wave
        if file is None or self._bytes + samples.nbytes > self._max_bytes:
            self.close()
            file = self._begin(samples.shape[1], sample_rate)
        file.writeframes(samples.tobytes())
        self._bytes += samples.nbytes

    def close(self) -> None:
        """Finish the file if one was begun."""
        if self._wave is not None:
            self._wave.close()
            self._file.close()
            self._wave = None

    def _begin(self, channels: int, sample_rate: int) -> wave.Wave_write:
        number = len(self.paths) + 1
        path = self._path if number == 1 else self._path.with_stem(f"{self._path.stem}-{number}")
        self._file = open(path, "xb")  # noqa: SIM115  # closed by `close`
        self.paths.append(path)
        self._wave, self._bytes = wave.open(self._file, "wb"), 0  # noqa: SIM115
        self._wave.setnchannels(channels)
        self._wave.setsampwidth(2)
        self._wave.setframerate(sample_rate)
        return self._wave

    def __enter__(self) -> WavWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
