"""Audio that comes as it is spoken: blocks, and the bounded queue through which they come. Knows no device and no model."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple, Protocol

import numpy as np

QUEUE_SECONDS = 10.0  # how far the recogniser may fall behind


class AudioBlock(NamedTuple):
    """Consecutive samples of a live source."""

    samples: np.ndarray  # (n, channels) int16
    sample_rate: int  # Hz, the same in all blocks of a source
    captured: float  # time.monotonic() when the last sample was captured

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.sample_rate


class LiveAudio(Protocol):
    """A source of blocks, opened by `with`."""

    @property
    def description(self) -> str:
        """For people: which source, at which rate."""

    @property
    def lost_seconds(self) -> float:
        """Audio that was captured and thrown away because the recogniser was too slow."""

    @property
    def overflows(self) -> int:
        """How often the system said that it lost audio before we saw it; nobody knows how much."""

    def blocks(self) -> Iterator[AudioBlock]:
        """Blocks until the audio ends or, after `stop`, until those that were captured before it are used up.

        Raises:
            OSError, ValueError: the source broke, after its last good block.
        """

    def stop(self) -> None:
        """Capture no more. May be called from a signal handler."""

    def __enter__(self) -> LiveAudio: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class BlockQueue:
    """Hands blocks from the thread that captures to the one that recognises.

    When `seconds` of audio wait, `put` throws all of it away and begins anew: one gap that is counted, and what is
    recognised is again what is spoken now. Dropping what comes instead would cut every word into pieces.
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
        return self._closed

    def put(self, block: AudioBlock) -> None:
        """Add a block without waiting; once closed it is ignored."""
        with self._changed:
            if self._closed:
                return
            if self._waiting + block.seconds > self._limit:
                self.lost_seconds += self._waiting
                self._blocks.clear()
                self._waiting = 0.0
            self._add(block)

    def put_when_free(self, block: AudioBlock) -> None:
        """Add a block, wait for room instead of losing anything; once closed it is ignored."""
        with self._changed:
            while self._blocks and self._waiting + block.seconds > self._limit and not self._closed:
                self._changed.wait(0.1)
            if not self._closed:
                self._add(block)

    def get(self, timeout: float) -> AudioBlock | None:
        """The next block; None if none comes within `timeout` seconds, or the queue is closed and empty.

        Raises:
            Exception: what the queue was closed with, once it is empty.
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
        """Take no more blocks; those that wait can still be got. Locks nothing, so that a signal handler may call it:
        who waits notices within a timeout."""
        self._error = error or self._error
        self._closed = True

    def _add(self, block: AudioBlock) -> None:
        self._blocks.append(block)
        self._waiting += block.seconds
        self._changed.notify_all()
