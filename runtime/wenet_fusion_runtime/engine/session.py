"""One stream within an engine: what its owner pushes and asks, what comes back. Knows no model and no worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from wenet_fusion_runtime.engine.scheduler import Job, Schedule
from wenet_fusion_runtime.results.result import Result


class Unavailable(RuntimeError):
    """The engine takes no more sessions now: too many are open, or it is being shut down."""


class Backlog(RuntimeError):
    """More audio than the engine holds for one session; push it again once `Session.room_seconds` has grown."""


class Update(NamedTuple):
    """What one block of a session brought. The last one comes exactly once, unless the session was closed."""

    finals: tuple[Result, ...] = ()  # segments that closed, oldest first, empty ones too
    partial: Result | None = None  # the open segment so far; None in the last update
    is_last: bool = False  # everything is decoded, or the session failed
    error: Exception | None = None  # why it failed; only in a last update


OnUpdate = Callable[[Update], object]


class Session:
    """A stream whose blocks an engine steps. Made by `Engine.open`; any thread may call its methods, and none of them
    waits for the model.

    The owner pushes audio as long as there is room, then calls `end` and waits for the last update, or drops it with
    `close`. Updates come in order, one at a time, in a worker's thread: whoever takes them should hand them over and
    return.
    """

    def __init__(self, job: Job, schedule: Schedule, limit_seconds: float) -> None:
        self._job = job
        self._schedule = schedule
        self._limit_seconds = limit_seconds

    @property
    def waiting_seconds(self) -> float:
        """Audio that was pushed and is not decoded yet."""
        return self._schedule.waiting_seconds(self._job)

    @property
    def room_seconds(self) -> float:
        """Audio that may be pushed now. It grows with every update; what the resampler holds back counts as decoded."""
        return max(0.0, self._limit_seconds - self.waiting_seconds)

    @property
    def is_open(self) -> bool:
        """Whether updates may still come."""
        return self._schedule.is_open(self._job)

    def push(self, samples: np.ndarray, sample_rate: int | None = None) -> None:
        """Add the next samples, a copy of them. Once the session has failed or was closed they are ignored.

        Wrong samples (see `Stream.push`) are no error here: they fail the session, which its last update tells.

        Args:
            samples: (n,) or (n, channels), float32 in [-1, 1] (what is outside is clipped) or int16.
            sample_rate: Hz, the same in all calls; None is the model's rate. Other rates are resampled.
        Raises:
            Backlog: there is no room for so much audio; nothing was taken.
            ValueError: `end` was called before, or the rate is not positive.
        """
        if sample_rate is not None and sample_rate < 1:
            raise ValueError(f"the sample rate must be positive, found {sample_rate} Hz")
        samples = np.array(samples)
        if not self._schedule.push(self._job, samples, sample_rate, self._limit_seconds):
            raise Backlog(
                f"{self.waiting_seconds:.1f} s of audio wait to be decoded and {self._limit_seconds:g} s may; "
                "send audio no faster than the updates come"
            )

    def end(self) -> None:
        """Say that no more audio comes; the last update follows."""
        self._schedule.end(self._job)

    def close(self) -> None:
        """Drop the session: what it holds is freed and no update comes any more, except one that is on its way."""
        self._schedule.remove(self._job)
