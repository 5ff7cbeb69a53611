"""Which sessions share the next step, and when it begins. Knows threads and clocks, but neither models nor results."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple

import numpy as np

from wenet_fusion_runtime.stream.recognizer import Stream

# A resampler gives its samples in bursts, so a block may be complete although it seems to lack as much as this.
BURST_SECONDS = 0.2

Group = tuple[int, int]  # frames per chunk and chunks to the left: what a batch has in common


class Piece(NamedTuple):
    """Samples as they were pushed."""

    samples: np.ndarray
    sample_rate: int | None


class Phase(Enum):
    """Where a job stands."""

    IDLE = 1  # its block is not complete
    QUEUED = 2  # a worker should take it
    TAKEN = 3  # a worker has it
    DONE = 4  # finished, failed or closed; it holds nothing


class Job:
    """A session as the schedule sees it, guarded by the schedule's lock. The stream is touched by nobody but the worker
    that has taken the job."""

    def __init__(self, stream: Stream, on_update: Callable[[Any], object]) -> None:
        meta = stream.model.meta
        self.stream: Stream | None = stream
        self.on_update = on_update
        self.group: Group = stream.chunk, stream.left
        self.rate = meta.sample_rate
        self.chunk_seconds = stream.chunk * meta.frame_seconds
        self.phase = Phase.IDLE
        self.pieces: list[Piece] = []
        self.pushed_seconds = 0.0  # in `pieces`
        self.buffered_seconds = 0.0  # in the stream, not decoded
        self.has_block = False  # the stream has a complete one
        self.ended = False  # no more pieces come
        self.due_since = 0.0  # when it was queued
        self.last_push, self.piece_seconds = -math.inf, 0.0  # when, and how much it was

    @property
    def waiting_seconds(self) -> float:
        return self.pushed_seconds + self.buffered_seconds

    @property
    def is_due(self) -> bool:
        """Whether a worker should look at it."""
        if self.has_block or self.ended or not self.pieces:
            return self.has_block or self.ended
        slack = 0.0 if self.pieces[0].sample_rate in (None, self.rate) else BURST_SECONDS
        return self.waiting_seconds + slack + 1e-6 >= self.chunk_seconds

    def expected(self) -> float:
        """When its block will be complete if its owner goes on like before."""
        if not self.piece_seconds:
            return math.inf
        pieces = math.ceil((self.chunk_seconds - self.waiting_seconds) / self.piece_seconds - 1e-6)
        return self.last_push + pieces * self.piece_seconds


class Taken(NamedTuple):
    """A job for a worker, with what was pushed since it was taken the last time."""

    job: Job
    stream: Stream
    pieces: list[Piece]
    ended: bool
    due_since: float


class Schedule:
    """Hands jobs that are due to workers, as many at once as may share a step.

    A job waits for others at most `max_wait_seconds`, and only while one is expected within that time that would share
    its step. Jobs are taken in the order in which they became due; free workers share what there is.

    Args:
        max_jobs: open ones.
        max_batch: jobs taken at once.
        max_wait_seconds: that a job waits for others.
        clock: seconds.
    """

    def __init__(
        self, max_jobs: int, max_batch: int, max_wait_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_jobs, self._max_batch, self._max_wait = max_jobs, max_batch, max_wait_seconds
        self._clock = clock
        lock = threading.Lock()
        self._changed = threading.Condition(lock)  # a job is due, or all is over
        self._emptied = threading.Condition(lock)  # no job is left
        self._jobs: dict[Job, None] = {}
        self._queues: dict[Group, dict[Job, None]] = {}  # in the order in which they became due; none is empty
        self._free_workers = 0
        self._taken = 0
        self._admits, self._stopped = True, False

    # ---- owners of sessions

    def add(self, job: Job) -> str:
        """Takes a job in; returns why not, or nothing."""
        with self._changed:
            if not self._admits:
                return "the engine is being shut down"
            if len(self._jobs) >= self._max_jobs:
                return f"{len(self._jobs)} sessions are open, and no more may be"
            self._jobs[job] = None
            return ""

    def push(self, job: Job, samples: np.ndarray, sample_rate: int | None, limit_seconds: float) -> bool:
        """Adds samples to an open job; returns whether there was room."""
        rate = job.rate if sample_rate is None else sample_rate
        seconds = (len(samples) if samples.ndim else 0) / rate
        with self._changed:
            if job.phase is Phase.DONE:
                return True
            if job.ended:
                raise ValueError("the audio of this session has ended; open another one for more")
            if job.waiting_seconds + seconds > limit_seconds:
                return False
            job.pieces.append(Piece(samples, sample_rate))
            job.pushed_seconds += seconds
            job.last_push, job.piece_seconds = self._clock(), seconds
            self._queue_if_due(job)
            return True

    def end(self, job: Job) -> None:
        """No more samples come."""
        with self._changed:
            if job.phase is not Phase.DONE:
                job.ended = True
                self._queue_if_due(job)

    def remove(self, job: Job) -> bool:
        """Forgets a job and frees what it holds; returns whether it was open."""
        with self._changed:
            if job.phase is Phase.DONE:
                return False
            if job.phase is Phase.QUEUED:
                self._unqueue(job)
            job.phase, job.stream, job.pieces = Phase.DONE, None, []
            job.pushed_seconds = job.buffered_seconds = 0.0
            del self._jobs[job]
            self._tell_if_empty()
            return True

    def waiting_seconds(self, job: Job) -> float:
        with self._changed:
            return job.waiting_seconds

    def is_open(self, job: Job) -> bool:
        return job.phase is not Phase.DONE

    # ---- workers

    def take(self) -> list[Taken]:
        """Waits for jobs of one group; an empty list when all is over."""
        with self._changed:
            self._free_workers += 1
            try:
                while not self._stopped:
                    if not self._queues:
                        self._changed.wait()
                        continue
                    queue = min(self._queues.values(), key=lambda queue: next(iter(queue)).due_since)
                    seconds = self._seconds_to_wait(queue)
                    if seconds <= 0:
                        return self._take(queue)
                    self._changed.wait(seconds)
                return []
            finally:
                self._free_workers -= 1

    def give_back(self, job: Job, buffered_seconds: float, has_block: bool) -> None:
        """A worker has done with a job what there was to do.

        Args:
            buffered_seconds: audio in its stream that is not decoded.
            has_block: the stream has a complete block.
        """
        with self._changed:
            self._taken -= 1
            if job.phase is Phase.TAKEN:
                job.phase, job.buffered_seconds, job.has_block = Phase.IDLE, buffered_seconds, has_block
                self._queue_if_due(job)
            self._tell_if_empty()

    # ---- the engine

    def jobs(self) -> list[Job]:
        """Those that are open."""
        with self._changed:
            return list(self._jobs)

    def close(self) -> None:
        """Admit no more jobs."""
        with self._changed:
            self._admits = False

    def wait_until_empty(self, seconds: float) -> bool:
        """Whether no job was left and no worker at work before the time was over."""
        with self._emptied:
            return self._emptied.wait_for(lambda: not self._jobs and not self._taken, seconds)

    def stop(self) -> None:
        """Hand out no more jobs: every worker's next `take` returns nothing."""
        with self._changed:
            self._admits, self._stopped = False, True
            self._changed.notify_all()

    # ---- with the lock held

    def _queue_if_due(self, job: Job) -> None:
        if job.phase is Phase.IDLE and job.is_due:
            job.phase, job.due_since = Phase.QUEUED, self._clock()
            self._queues.setdefault(job.group, {})[job] = None
            self._changed.notify()

    def _unqueue(self, job: Job) -> None:
        queue = self._queues[job.group]
        del queue[job]
        if not queue:
            del self._queues[job.group]

    def _seconds_to_wait(self, queue: dict[Job, None]) -> float:
        """How long a step of this queue should be put off."""
        first = next(iter(queue))
        latest, now = first.due_since + self._max_wait, self._clock()
        if len(queue) >= self._max_batch or now >= latest:
            return 0.0
        idle = (job for job in self._jobs if job.phase is Phase.IDLE and job.group == first.group)
        return latest - now if any(now <= job.expected() <= latest for job in idle) else 0.0

    def _take(self, queue: dict[Job, None]) -> list[Taken]:
        count = min(self._max_batch, -(-len(queue) // self._free_workers))
        taken = []
        for job in list(queue)[:count]:
            self._unqueue(job)
            job.phase = Phase.TAKEN
            taken.append(Taken(job, job.stream, job.pieces, job.ended, job.due_since))
            job.buffered_seconds += job.pushed_seconds
            job.pieces, job.pushed_seconds = [], 0.0
        self._taken += len(taken)
        if self._queues:
            self._changed.notify()
        return taken

    def _tell_if_empty(self) -> None:
        if not self._jobs and not self._taken:
            self._emptied.notify_all()
