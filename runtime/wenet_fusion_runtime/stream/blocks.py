"""One stream's audio, resampled and cut into the blocks that the model steps over. Knows neither models nor text."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np

from wenet_fusion_runtime.audio.resampling import Resampler, to_mono


class Block(NamedTuple):
    """Samples of one chunk, for one step of the model."""

    samples: np.ndarray  # (N,) float32 at the model's rate, N whole frames; zeros after `length`
    length: int  # samples that count
    is_last: bool  # the audio ends in this block; only then may it be shorter than a chunk


class BlockBuffer:
    """Takes samples at any rate and in any cut; gives blocks of `chunk` frames, the same for every cut.

    Args:
        sample_rate: the model's, Hz.
        frame_samples: samples per encoder frame.
        chunk: frames per block.
        tail_samples: zero samples that end the audio.
    """

    def __init__(self, sample_rate: int, frame_samples: int, chunk: int, tail_samples: int) -> None:
        self._model_rate = sample_rate
        self._frame_samples = frame_samples
        self._size = chunk * frame_samples
        self._tail_samples = tail_samples
        self._source_rate: int | None = None
        self._resampler = Resampler(sample_rate, sample_rate)
        self._pieces: deque[np.ndarray] = deque()  # samples that are in no block yet
        self._waiting = 0  # how many
        self._block: Block | None = None  # the block that is ready, until it is dropped
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether `end` was called."""
        return self._ended

    @property
    def waiting_samples(self) -> int:
        """Samples at the model's rate that are in no dropped block."""
        return self._waiting + (0 if self._block is None else self._block.length)

    def push(self, samples: np.ndarray, sample_rate: int | None = None) -> None:
        """Add the next samples; see `Stream.push`."""
        if self._ended:
            raise ValueError("the audio of this stream has ended; create another stream for more")
        mono = to_mono(samples)
        self._set_source_rate(self._model_rate if sample_rate is None else sample_rate)
        self._add(self._resampler.process(mono))

    def end(self) -> None:
        """Add what the resampler held back and the tail; calling it again changes nothing."""
        if self._ended:
            return
        self._ended = True
        self._add(self._resampler.process(np.zeros(0, dtype=np.float32), last=True))
        self._add(np.zeros(self._tail_samples, dtype=np.float32))

    def ready(self) -> Block | None:
        """The next block, the same one until `drop`; None until it is complete."""
        if self._block is None and (self._waiting >= self._size or (self._ended and self._waiting)):
            samples = self._take(min(self._size, self._waiting))
            padding = -len(samples) % self._frame_samples
            is_last = self._ended and not self._waiting
            self._block = Block(np.pad(samples, (0, padding)) if padding else samples, len(samples), is_last)
        return self._block

    def drop(self) -> None:
        """Forget the block that `ready` returned: it was decoded."""
        assert self._block is not None
        self._block = None

    def _set_source_rate(self, sample_rate: int) -> None:
        if self._source_rate is None:
            self._resampler = Resampler(sample_rate, self._model_rate)
            self._source_rate = sample_rate
        elif sample_rate != self._source_rate:
            raise ValueError(
                f"the stream runs at {self._source_rate} Hz, found {sample_rate} Hz; "
                "create another stream for another rate"
            )

    def _add(self, samples: np.ndarray) -> None:
        if len(samples):
            self._pieces.append(np.array(samples, dtype=np.float32))  # a copy: the caller may reuse its memory
            self._waiting += len(samples)

    def _take(self, count: int) -> np.ndarray:
        taken, missing = [], count
        while missing:
            piece = self._pieces.popleft()
            if len(piece) > missing:
                self._pieces.appendleft(piece[missing:])
            taken.append(piece[:missing])
            missing -= len(taken[-1])
        self._waiting -= count
        return np.concatenate(taken)
