"""Choose the sessions that share the next step, and the time at which it begins."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from wenet_fusion_runtime.engine.job import Change, Group, Job, Phase, Piece, Taken


class Scheduler:
    """Hands due jobs to workers, in batches that can share a step.

    A due job waits at most `max_wait_seconds` for others, and only while another job that can share its step is
    expected to become due in that time. Jobs are taken in the order in which they became due. Free workers share the
    queue evenly.

    Args:
        max_jobs: largest number of open jobs.
        max_batch: largest number of jobs taken at once.
        max_wait_seconds: longest time that a due job waits for others.
        clock: returns the time in seconds.

    >>> scheduler = Scheduler(max_jobs=8, max_batch=4, max_wait_seconds=0.003)
    >>> scheduler.jobs()
    []
    >>> scheduler.stop()
    >>> scheduler.take()
    []
    """

    def __init__(
        self, max_jobs: int, max_batch: int, max_wait_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_jobs, self._max_batch, self._max_wait = max_jobs, max_batch, max_wait_seconds
        self._clock = clock
        lock = threading.Lock()
        self._changed = threading.Condition(lock)  # a job is due, or the scheduler was stopped
        self._emptied = threading.Condition(lock)  # no job is open, and no worker has one
        self._jobs: dict[Job, None] = {}
        self._queues: dict[Group, dict[Job, None]] = {}  # in the order in which jobs became due; never an empty queue
        self._free_workers = 0
        self._taken = 0
        self._is_open, self._stopped = True, False

    # ---- for owners of sessions

    def add(self, job: Job, after: Job | None = None) -> str:
        """Add a job; return the reason if it was not added, else an empty string.

        Args:
            job: the job.
            after: an open job that will end soon and that this job follows; while it is open, the limit does not apply.
        """
        with self._changed:
            if not self._is_open:
                return "the engine is shutting down"
            if len(self._jobs) >= self._max_jobs and after not in self._jobs:
                return f"the limit of {self._max_jobs} open sessions is reached"
            self._jobs[job] = None
            return ""

    def push(self, job: Job, samples: np.ndarray, sample_rate: int | None, limit_seconds: float) -> bool:
        """Add samples to a job, unless more than `limit_seconds` of audio would wait; return whether they fit.

        Samples for a job that is done are dropped.

        Raises:
            ValueError: `end` was called before.
        """
        rate = job.rate if sample_rate is None else sample_rate
        seconds = (len(samples) if samples.ndim else 0) / rate
        with self._changed:
            if job.phase is Phase.DONE:
                return True
            if job.ended:
                raise ValueError("the audio of this session has ended; open another session for more")
            if job.waiting_seconds + seconds > limit_seconds:
                return False
            job.pieces.append(Piece(samples, sample_rate))
            job.pushed_seconds += seconds
            job.last_push, job.piece_seconds = self._clock(), seconds
            self._queue_if_due(job)
            return True

    def change(self, job: Job, change: Change, limit: int) -> bool:
        """Add a change to a job, unless `limit` changes wait already; return whether it was added.

        A change for a job that has ended or is done is dropped.
        """
        with self._changed:
            if job.phase is Phase.DONE or job.ended:
                return True
            if job.changes >= limit:
                return False
            job.pieces.append(change)
            job.changes += 1
            self._queue_if_due(job)
            return True

    def end(self, job: Job) -> None:
        """Mark the end of a job's audio."""
        with self._changed:
            if job.phase is not Phase.DONE:
                job.ended = True
                self._queue_if_due(job)

    def remove(self, job: Job) -> bool:
        """Remove a job and free what it holds; return whether it was open."""
        with self._changed:
            if job.phase is Phase.DONE:
                return False
            if job.phase is Phase.QUEUED:
                self._unqueue(job)
            job.phase, job.stream, job.pieces, job.changes = Phase.DONE, None, [], 0
            job.pushed_seconds = job.buffered_seconds = 0.0
            del self._jobs[job]
            self._notify_if_empty()
            return True

    def waiting_seconds(self, job: Job) -> float:
        """Return the audio of a job that is not decoded, in seconds."""
        with self._changed:
            return job.waiting_seconds

    def is_open(self, job: Job) -> bool:
        """Return whether a job is neither finished, failed nor closed."""
        return job.phase is not Phase.DONE

    # ---- for workers

    def take(self) -> list[Taken]:
        """Wait for jobs of one group and return them; return an empty list after `stop`."""
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

    def set_buffered(self, job: Job, seconds: float) -> None:
        """Record the undecoded audio in a taken job's stream, so that its owner sees the new room during the update."""
        with self._changed:
            if job.phase is Phase.TAKEN:
                job.buffered_seconds = seconds

    def give_back(self, job: Job, buffered_seconds: float, has_block: bool) -> None:
        """Give a job back after a step.

        Args:
            job: one that `take` returned.
            buffered_seconds: audio in its stream that is not decoded.
            has_block: its stream holds a complete block.
        """
        with self._changed:
            self._taken -= 1
            if job.phase is Phase.TAKEN:
                job.phase, job.buffered_seconds, job.has_block = Phase.IDLE, buffered_seconds, has_block
                self._queue_if_due(job)
            self._notify_if_empty()

    # ---- for the engine

    def jobs(self) -> list[Job]:
        """Return the open jobs."""
        with self._changed:
            return list(self._jobs)

    def close(self) -> None:
        """Refuse further jobs."""
        with self._changed:
            self._is_open = False

    def wait_until_empty(self, seconds: float) -> bool:
        """Wait until no job is open and no worker is busy; return False if that takes longer than `seconds`."""
        with self._emptied:
            return self._emptied.wait_for(lambda: not self._jobs and not self._taken, seconds)

    def stop(self) -> None:
        """Stop handing out jobs: `take` returns an empty list to every worker."""
        with self._changed:
            self._is_open, self._stopped = False, True
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
        """Return the seconds by which to delay a step of this queue."""
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
            assert job.stream is not None, "a queued job has its stream"
            self._unqueue(job)
            job.phase = Phase.TAKEN
            taken.append(Taken(job, job.stream, job.pieces, job.ended, job.due_since))
            job.buffered_seconds += job.pushed_seconds
            job.pieces, job.pushed_seconds, job.changes = [], 0.0, 0
        self._taken += len(taken)
        if self._queues:
            self._changed.notify()
        return taken

    def _notify_if_empty(self) -> None:
        if not self._jobs and not self._taken:
            self._emptied.notify_all()
