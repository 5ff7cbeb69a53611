"""Writes a wav file that is valid at every moment, while audio comes. Knows no device and no model."""

from __future__ import annotations

import wave
from pathlib import Path
from types import TracebackType

import numpy as np

MAX_BYTES = 0xFFFFFFFF - 1024  # of samples in one file: the format counts bytes in 32 bits, its header included


class WavWriter:
    """Streams int16 samples to disk. The header is brought up to date after each block, so what a kill leaves is a wav
    file that lacks at most the last block. The file appears with the first block. After 4 GiB (12 hours of 48 kHz mono)
    NAME.wav goes on in NAME-2.wav.

    Args:
        path: of the file, which must not exist: a recording cannot be made again.
    Raises:
        ValueError: the name does not end in .wav.
        OSError: the file exists, or its folder does not; from `write` also when the disk is full.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        if path.suffix.lower() != ".wav":
            raise ValueError(f"{path}: audio is saved as wav; choose a name that ends in .wav")
        if path.exists():
            raise FileExistsError(f"{path}: exists already; choose another name, or remove it")
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path}: its folder does not exist; make it, or choose another name")
        self.paths: list[Path] = []  # of the files written so far
        self._path, self._max_bytes, self._bytes = path, max_bytes, 0
        self._wave: wave.Wave_write | None = None

    def write(self, samples: np.ndarray, sample_rate: int) -> None:
        """Append samples (n, channels) int16; rate and channels are the same in all calls."""
        if self._wave is None or self._bytes + samples.nbytes > self._max_bytes:
            self.close()
            self._begin(samples.shape[1], sample_rate)
        self._wave.writeframes(samples.tobytes())
        self._bytes += samples.nbytes

    def close(self) -> None:
        """Finish the file, if there is one."""
        if self._wave is not None:
            self._wave.close()
            self._file.close()
            self._wave = None

    def _begin(self, channels: int, sample_rate: int) -> None:
        number = len(self.paths) + 1
        path = self._path if number == 1 else self._path.with_stem(f"{self._path.stem}-{number}")
        self._file = open(path, "xb")
        self.paths.append(path)
        self._wave, self._bytes = wave.open(self._file, "wb"), 0
        self._wave.setparams((channels, 2, sample_rate, 0, "NONE", None))

    def __enter__(self) -> WavWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
