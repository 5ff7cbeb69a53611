"""Counts and times of an engine since its start."""

from __future__ import annotations

import bisect
import threading
from dataclasses import dataclass
from typing import NamedTuple

STEP_BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # seconds
BATCH_BOUNDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)  # streams


@dataclass(frozen=True)
class Histogram:
    """Number of values in each interval.

    >>> Histogram(bounds=(0.1, 0.2), counts=(5, 2, 1), total=1.1).count
    8
    """

    bounds: tuple[float, ...]  # upper ends of the intervals, ascending
    counts: tuple[int, ...]  # number of values in each interval, including its upper end; the last: above all bounds
    total: float  # sum of all values

    @property
    def count(self) -> int:
        """Number of all values."""
        return sum(self.counts)


class EngineStatistics(NamedTuple):
    """Totals since the engine started; `sessions` and `waiting_seconds` are current values."""

    sessions: int  # sessions that are open now
    waiting_seconds: float  # undecoded audio of the open sessions
    opened: int  # sessions that were opened
    finished: int  # sessions whose audio was decoded to its end
    failed: int  # sessions that ended with an error
    closed: int  # sessions that their owner closed
    refused: int  # sessions that were not opened: too many were open, or the engine was shutting down
    audio_seconds: float  # decoded audio
    step_seconds: float  # time in the model, summed over workers
    search_seconds: float  # time in search, rescoring and closing of segments, summed over workers
    batches: Histogram  # streams per step
    steps: Histogram  # duration of a step, seconds
    delays: Histogram  # time from the completion of a block to its update, seconds

    @property
    def real_time_factor(self) -> float:
        """Seconds of work per second of audio."""
        return (self.step_seconds + self.search_seconds) / self.audio_seconds if self.audio_seconds else 0.0


class _HistogramBuilder:
    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect.bisect_left(self._bounds, value)] += 1
        self._total += value

    def histogram(self) -> Histogram:
        return Histogram(self._bounds, tuple(self._counts), self._total)


class StatisticsRecorder:
    """Collects `EngineStatistics`; any thread may call its methods.

    >>> recorder = StatisticsRecorder()
    >>> recorder.count_opened()
    >>> recorder.count_ended(failed=True)
    >>> found = recorder.snapshot(sessions=0, waiting_seconds=0.0)
    >>> found.opened, found.failed, found.closed
    (1, 1, 0)
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opened = self._finished = self._failed = self._refused = 0
        self._audio_seconds = self._step_seconds = self._search_seconds = 0.0
        self._batches, self._steps, self._delays = map(_HistogramBuilder, (BATCH_BOUNDS, STEP_BOUNDS, STEP_BOUNDS))

    def count_opened(self) -> None:
        """Count a session that was opened."""
        with self._lock:
            self._opened += 1

    def count_refused(self) -> None:
        """Count a session that was not opened."""
        with self._lock:
            self._refused += 1

    def count_ended(self, failed: bool) -> None:
        """Count a session that finished or failed."""
        with self._lock:
            self._failed += failed
            self._finished += not failed

    def add_step(self, streams: int, seconds: float) -> None:
        """Add a step of the model over `streams` streams."""
        with self._lock:
            self._step_seconds += seconds
            self._batches.add(streams)
            self._steps.add(seconds)

    def add_search(self, audio_seconds: float, seconds: float) -> None:
        """Add the search over a block of `audio_seconds`, which took `seconds`."""
        with self._lock:
            self._audio_seconds += audio_seconds
            self._search_seconds += seconds

    def add_delay(self, seconds: float) -> None:
        """Add the time from the completion of a block to its update."""
        with self._lock:
            self._delays.add(seconds)

    def snapshot(self, sessions: int, waiting_seconds: float) -> EngineStatistics:
        """Return the statistics.

        Args:
            sessions: number of open sessions.
            waiting_seconds: their undecoded audio.
        """
        with self._lock:
            return EngineStatistics(
                sessions=sessions,
                waiting_seconds=waiting_seconds,
                opened=self._opened,
                finished=self._finished,
                failed=self._failed,
                closed=max(0, self._opened - self._finished - self._failed - sessions),
                refused=self._refused,
                audio_seconds=self._audio_seconds,
                step_seconds=self._step_seconds,
                search_seconds=self._search_seconds,
                batches=self._batches.histogram(),
                steps=self._steps.histogram(),
                delays=self._delays.histogram(),
            )
