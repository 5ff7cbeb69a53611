"""The interface of live audio sources, and the bounded queue between the capturing and the recognising thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple, Protocol

import numpy as np

QUEUE_SECONDS = 10.0  # most audio that may wait for the recogniser


class AudioBlock(NamedTuple):
    """Consecutive samples of a live source.

    >>> AudioBlock(np.zeros((800, 1), np.int16), sample_rate=16000, captured=0.0).seconds
    0.05
    """

    samples: np.ndarray  # (n, channels) int16
    sample_rate: int  # Hz, the same in all blocks of a source
    captured: float  # time.monotonic() when the last sample was captured

    @property
    def seconds(self) -> float:
        """Duration of the block."""
        return len(self.samples) / self.sample_rate


class LiveAudio(Protocol):
    """A source of audio blocks, which a `with` statement opens and closes."""

    @property
    def description(self) -> str:
        """Name and sample rate of the source, to show to users."""

    @property
    def lost_seconds(self) -> float:
        """Seconds of captured audio that were dropped because the recogniser was too slow."""

    @property
    def overflows(self) -> int:
        """Number of times that the system reported lost audio; it does not report how much."""

    def blocks(self) -> Iterator[AudioBlock]:
        """Yield blocks until the audio ends. After `stop`, yield the blocks captured before it, then end.

        Raises:
            OSError, ValueError: the source failed; raised after its last good block.
        """

    def stop(self) -> None:
        """Stop capturing. Safe to call from a signal handler."""

    def __enter__(self) -> LiveAudio: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class BlockQueue:
    """Passes blocks from the capturing thread to the recognising thread.

    When more than `seconds` of audio would wait, `put` drops all waiting audio and adds its length to `lost_seconds`.
    That makes one gap, after which recognition is live again; dropping single blocks would damage every word.

    >>> queue = BlockQueue(seconds=10.0)
    >>> queue.put(AudioBlock(np.zeros((800, 1), np.int16), sample_rate=16000, captured=0.0))
    >>> queue.get(timeout=1.0).samples.shape, queue.lost_seconds
    ((800, 1), 0.0)
    """

    def __init__(self, seconds: float = QUEUE_SECONDS) -> None:
        self.lost_seconds = 0.0
        self._limit = seconds
        self._blocks: deque[AudioBlock] = deque()
        self._waiting = 0.0  # seconds
        self._changed = threading.Condition()
        self._closed = False
        self._error: Exception | None = None

    @property
    def closed(self) -> bool:
        """True once `close` was called."""
        return self._closed

    def put(self, block: AudioBlock) -> None:
        """Add a block without waiting. After `close`, the block is ignored."""
        with self._changed:
            if self._closed:
                return
            if self._waiting + block.seconds > self._limit:
                self.lost_seconds += self._waiting
                self._blocks.clear()
                self._waiting = 0.0
            self._add(block)

    def put_when_free(self, block: AudioBlock) -> None:
        """Wait for room, then add a block, so that no audio is lost. After `close`, the block is ignored."""
        with self._changed:
            while self._blocks and self._waiting + block.seconds > self._limit and not self._closed:
                self._changed.wait(0.1)
            if not self._closed:
                self._add(block)

    def get(self, timeout: float) -> AudioBlock | None:
        """Return the next block; None if none comes within `timeout` seconds, or the queue is closed and empty.

        Raises:
            Exception: the error that was passed to `close`; raised once, after the last block.
        """
        with self._changed:
            if not self._blocks and not self._closed:
                self._changed.wait(timeout)
            if self._blocks:
                block = self._blocks.popleft()
                self._waiting = max(0.0, self._waiting - block.seconds) if self._blocks else 0.0
                self._changed.notify_all()
                return block
            if self._closed and self._error is not None:
                error, self._error = self._error, None
                raise error
            return None

    def close(self, error: Exception | None = None) -> None:
        """Accept no more blocks; waiting blocks can still be taken.

        Takes no lock, so signal handlers may call it; waiting threads notice the end at their next timeout.

        Args:
            error: raised by `get` after the last block.
        """
        self._error = error or self._error
        self._closed = True

    def _add(self, block: AudioBlock) -> None:
        self._blocks.append(block)
        self._waiting += block.seconds
        self._changed.notify_all()
