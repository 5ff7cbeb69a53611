"""What an engine has done so far, as a value, and its recorder. Knows neither sessions nor models."""

from __future__ import annotations

import bisect
import threading
from typing import NamedTuple

STEP_BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # seconds
BATCH_BOUNDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


class Histogram(NamedTuple):
    """Counts of values by size."""

    bounds: tuple[float, ...]  # ascending
    counts: tuple[int, ...]  # values at most as large as each bound and larger than the one before; then the rest
    total: float  # sum of all values

    @property
    def count(self) -> int:
        return sum(self.counts)


class EngineStatistics(NamedTuple):
    """Counts since the engine began, except for what is true now."""

    sessions: int  # open now
    waiting_seconds: float  # audio of theirs that is not decoded, now
    opened: int
    finished: int  # came to their end
    failed: int  # got an error
    closed: int  # dropped by their owner
    refused: int  # never opened
    audio_seconds: float  # decoded
    step_seconds: float  # of all workers in the model
    search_seconds: float  # of all workers in searches, rescoring and closing of segments
    batches: Histogram  # streams in a step
    steps: Histogram  # seconds of a step
    delays: Histogram  # seconds from a block's completion to the call with its update

    @property
    def real_time_factor(self) -> float:
        """Seconds of work for a second of audio."""
        return (self.step_seconds + self.search_seconds) / self.audio_seconds if self.audio_seconds else 0.0


class _Growing:
    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect.bisect_left(self._bounds, value)] += 1
        self._total += value

    def histogram(self) -> Histogram:
        return Histogram(self._bounds, tuple(self._counts), self._total)


class Recorder:
    """Counts; any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opened = self._finished = self._failed = self._refused = 0
        self._audio_seconds = self._step_seconds = self._search_seconds = 0.0
        self._batches, self._steps, self._delays = map(_Growing, (BATCH_BOUNDS, STEP_BOUNDS, STEP_BOUNDS))

    def opened(self) -> None:
        with self._lock:
            self._opened += 1

    def refused(self) -> None:
        with self._lock:
            self._refused += 1

    def ended(self, failed: bool) -> None:
        with self._lock:
            self._failed += failed
            self._finished += not failed

    def stepped(self, streams: int, seconds: float) -> None:
        with self._lock:
            self._step_seconds += seconds
            self._batches.add(streams)
            self._steps.add(seconds)

    def decoded(self, audio_seconds: float, seconds: float) -> None:
        with self._lock:
            self._audio_seconds += audio_seconds
            self._search_seconds += seconds

    def delivered(self, delay: float) -> None:
        with self._lock:
            self._delays.add(delay)

    def statistics(self, sessions: int, waiting_seconds: float) -> EngineStatistics:
        """`sessions` that are open now, and their audio that is not decoded."""
        with self._lock:
            closed = max(0, self._opened - self._finished - self._failed - sessions)
            return EngineStatistics(
                sessions,
                waiting_seconds,
                self._opened,
                self._finished,
                self._failed,
                closed,
                self._refused,
                self._audio_seconds,
                self._step_seconds,
                self._search_seconds,
                self._batches.histogram(),
                self._steps.histogram(),
                self._delays.histogram(),
            )
