"""The handle of one stream in an engine: the owner pushes audio and receives updates."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from wenet_fusion_runtime.engine.job import Change, Job
from wenet_fusion_runtime.engine.scheduler import Scheduler
from wenet_fusion_runtime.results.result import Result
from wenet_fusion_runtime.search.hot_words import DEFAULT_BOOST, HotWord
from wenet_fusion_runtime.stream.biasing import Biasing

MOST_CHANGES = 4  # changes of the hot words that may wait for a worker


class Unavailable(RuntimeError):
    """The engine opens no session: the limit is reached, or the engine is shutting down."""


class Backlog(RuntimeError):
    """The session is full. If audio was refused, push it again once `Session.room_seconds` has grown; if hot words or
    a context were refused, set them again after the next update or call of `on_room`."""


class Update(NamedTuple):
    """Results of one block of a session. A session that is not closed ends with an update whose `is_last` is True."""

    finals: tuple[Result, ...] = ()  # segments that closed, oldest first, empty ones included
    partial: Result | None = None  # the open segment so far; None in the last update
    is_last: bool = False  # all audio is decoded, or the session failed
    error: Exception | None = None  # why the session failed; only in a last update


OnUpdate = Callable[[Update], object]


class Session:
    """A stream that an engine decodes; `Engine.open` returns it. Any thread may call its methods, which never wait for
    the model.

    Push audio as long as there is room, then call `end` and wait for the last update, or drop the session with `close`.
    Updates arrive in order, one at a time, in a worker's thread: `on_update` should return quickly.

    >>> from types import SimpleNamespace
    >>> model = SimpleNamespace(meta=SimpleNamespace(sample_rate=16000, frame_seconds=0.04, lookahead_samples=0))
    >>> job, scheduler = Job(SimpleNamespace(model=model, chunk=16, left=4), print), Scheduler(8, 4, 0.0)
    >>> session = Session(job, scheduler, limit_seconds=10.0, biasing=None)
    >>> session.push(np.zeros(8000, np.float32), 16000)
    >>> session.waiting_seconds, session.room_seconds
    (0.5, 9.5)
    """

    def __init__(self, job: Job, scheduler: Scheduler, limit_seconds: float, biasing: Biasing) -> None:
        self._biasing, self._changing = biasing, threading.Lock()
        self._job = job
        self._scheduler = scheduler
        self._limit_seconds = limit_seconds

    @property
    def waiting_seconds(self) -> float:
        """Audio that was pushed but not decoded, in seconds."""
        return self._scheduler.waiting_seconds(self._job)

    @property
    def room_seconds(self) -> float:
        """Audio that may be pushed now, in seconds. It grows with every update and every call of `on_room`; audio
        inside the resampler counts as decoded."""
        return max(0.0, self._limit_seconds - self.waiting_seconds)

    @property
    def is_open(self) -> bool:
        """True while updates may still arrive."""
        return self._scheduler.is_open(self._job)

    def push(self, samples: np.ndarray, sample_rate: int | None = None) -> None:
        """Add a copy of the next samples. Samples for a session that has failed or was closed are dropped.

        Invalid samples (see `Stream.push`) do not raise here: the session fails, and its last update holds the error.

        Args:
            samples: (n,) or (n, channels), float32 in [-1, 1] (values up to 16 are clipped) or int16.
            sample_rate: Hz, the same in all calls; None is the model's rate. Other rates are resampled.
        Raises:
            Backlog: the audio does not fit; none of it was added.
            ValueError: `end` was called before, or the rate is not positive.
        """
        if sample_rate is not None and sample_rate < 1:
            raise ValueError(f"the sample rate must be positive, found {sample_rate} Hz")
        samples = np.array(samples)
        if not self._scheduler.push(self._job, samples, sample_rate, self._limit_seconds):
            raise Backlog(
                f"{self.waiting_seconds:.1f} s of audio are waiting and the limit is {self._limit_seconds:g} s; "
                "push shorter pieces, no faster than the updates arrive"
            )

    def set_hot_words(self, hot_words: Sequence[HotWord]) -> None:
        """Replace the hot words of the stream, beginning with the audio pushed next; see `Stream.set_hot_words`.

        A call with tens of thousands of phrases takes seconds.

        Raises:
            Backlog: MOST_CHANGES changes are waiting; nothing changed.
            ValueError: hot words are unusable (the message lists all of them), or the mode keeps one hypothesis only.
        """
        with self._changing:
            self._change(self._biasing.with_hot_words(hot_words))

    def set_context(self, text: str, boost: float = DEFAULT_BOOST) -> tuple[str, ...]:
        """Prefer the terms of a text, beginning with the audio pushed next; return them. See `Stream.set_context`.

        Raises:
            Backlog: MOST_CHANGES changes are waiting; nothing changed.
            ValueError: the mode keeps one hypothesis only, or the boost is out of range.
        """
        with self._changing:
            self._change(self._biasing.with_context(text, boost))
            return tuple(word.phrase for word in self._biasing.context)

    def _change(self, biasing: Biasing) -> None:
        if biasing is self._biasing:
            return
        if not self._scheduler.change(self._job, Change(biasing), MOST_CHANGES):
            raise Backlog(f"{MOST_CHANGES} changes of the hot words are waiting; make at most one per update")
        self._biasing = biasing

    def end(self) -> None:
        """Mark the end of the audio; the last update follows."""
        self._scheduler.end(self._job)

    def close(self) -> None:
        """Drop the session and free what it holds. No update follows, except one that is being delivered."""
        self._scheduler.remove(self._job)
