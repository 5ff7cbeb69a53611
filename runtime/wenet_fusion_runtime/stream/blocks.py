"""Resample the audio of one stream and cut it into blocks, one for each step of the model."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np

from wenet_fusion_runtime.audio.resampling import Resampler, to_mono


class Block(NamedTuple):
    """The samples of one chunk, for one step of the model."""

    samples: np.ndarray  # (N,) float32 at the model's rate: whole frames and the look-ahead; zeros after the end
    length: int  # valid samples, look-ahead not counted
    is_last: bool  # the audio ends in this block; only then may it be shorter than a chunk


class BlockBuffer:
    """Cut samples at any rate into blocks of `chunk` frames, which do not depend on the lengths of the pushed pieces.

    Args:
        sample_rate: the model's sample rate, Hz.
        frame_samples: samples per encoder frame.
        chunk: frames per block.
        right_padding: zero samples appended at the end of the audio.
        lookahead: samples that a block holds after its last frame; the next block begins with them.

    >>> buffer = BlockBuffer(sample_rate=8000, frame_samples=4, chunk=2, right_padding=3)
    >>> buffer.push(np.ones(7, dtype=np.float32))
    >>> buffer.ready() is None  # a block has 8 samples
    True
    >>> buffer.end()
    >>> buffer.ready().samples.tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]
    """

    def __init__(
        self, sample_rate: int, frame_samples: int, chunk: int, right_padding: int, lookahead: int = 0
    ) -> None:
        self._model_rate = sample_rate
        self._frame_samples = frame_samples
        self._size = chunk * frame_samples
        self._right_padding, self._lookahead = right_padding, lookahead
        self._source_rate: int | None = None
        self._resampler = Resampler(sample_rate, sample_rate)
        self._pieces: deque[np.ndarray] = deque()  # samples that are in no block yet
        self._waiting = 0  # the number of these samples
        self._block: Block | None = None  # the ready block, until it is dropped
        self._ended = False

    @property
    def ended(self) -> bool:
        """True once `end` was called."""
        return self._ended

    @property
    def waiting_samples(self) -> int:
        """Number of samples, at the model's rate, that are not in a dropped block."""
        return self._waiting + (0 if self._block is None else self._block.length)

    @property
    def complete_blocks(self) -> int:
        """Number of complete blocks that are not dropped yet."""
        # The last block may be short, and needs no look-ahead.
        waiting = self._waiting + (self._size - 1 if self._ended else -self._lookahead)
        return (self._block is not None) + max(0, waiting) // self._size

    def push(self, samples: np.ndarray, sample_rate: int | None = None) -> None:
        """Add the next samples; see `Stream.push`."""
        if self._ended:
            raise ValueError("the audio of this stream has ended; create another stream for more")
        mono = to_mono(samples)
        self._set_source_rate(self._model_rate if sample_rate is None else sample_rate)
        self._add(self._resampler.process(mono))

    def end(self) -> None:
        """End the audio: add the resampler's last samples and the right padding. A second call changes nothing."""
        if self._ended:
            return
        self._ended = True
        self._add(self._resampler.process(np.zeros(0, dtype=np.float32), last=True))
        self._add(np.zeros(self._right_padding, dtype=np.float32))

    def ready(self) -> Block | None:
        """Return the next block, the same one until `drop`; None until it is complete."""
        is_whole = self._waiting >= self._size + self._lookahead
        if self._block is None and (is_whole or (self._ended and self._waiting)):
            taken = self._take(min(self._size, self._waiting))
            length = len(taken)
            if self._lookahead:
                taken = np.concatenate([taken, *self._peek(self._lookahead)])
            padding = length + -length % self._frame_samples + self._lookahead - len(taken)
            is_last = self._ended and not self._waiting
            self._block = Block(np.pad(taken, (0, padding)) if padding else taken, length, is_last)
        return self._block

    def drop(self) -> None:
        """Discard the block that `ready` returned, once it is decoded."""
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

    def _peek(self, count: int) -> list[np.ndarray]:
        """Return the next `count` samples, or fewer if there are fewer, without taking them."""
        found = []
        for piece in self._pieces:
            if count <= 0:
                break
            found.append(piece[:count])
            count -= len(found[-1])
        return found
