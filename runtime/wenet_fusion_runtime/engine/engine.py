"""Decode many streams with one model; blocks that are ready at the same time run as one batch."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from wenet_fusion_runtime.engine.batched_step import StepResult, ready_block, step_streams
from wenet_fusion_runtime.engine.job import Change, Job, Taken
from wenet_fusion_runtime.engine.scheduler import Scheduler
from wenet_fusion_runtime.engine.session import OnUpdate, Session, Unavailable, Update
from wenet_fusion_runtime.engine.statistics import EngineStatistics, StatisticsRecorder
from wenet_fusion_runtime.model.acoustic_model import AcousticModel, ThreadedBackend
from wenet_fusion_runtime.model.metadata import DYNAMIC
from wenet_fusion_runtime.stream.stream import Stream

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineOptions:
    """Threads, batch size and limits of an engine.

    Raises:
        ValueError: a value is out of its range.

    >>> EngineOptions(workers=2).max_batch
    16
    >>> EngineOptions(workers=0)
    Traceback (most recent call last):
    ValueError: workers must be at least 1, found 0
    """

    workers: int = 1  # threads that run the model, each on one core
    max_batch: int = 16  # largest number of streams per step
    max_wait_seconds: float = 0.003  # longest time that a complete block waits for others to share its step
    max_sessions: int = 1000  # largest number of open sessions
    max_waiting_seconds: float = 10.0  # limit of undecoded audio per session; at least two chunks
    batch_dynamic: bool = False  # batch int8-dynamic models too; their tokens then depend on the other streams

    def __post_init__(self) -> None:
        for name in ("workers", "max_batch", "max_sessions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
        if not 0 <= self.max_wait_seconds <= 1:
            raise ValueError(f"max_wait_seconds must be 0 to 1, found {self.max_wait_seconds}")
        if not self.max_waiting_seconds > 0:
            raise ValueError(f"max_waiting_seconds must be positive, found {self.max_waiting_seconds}")


class Engine:
    """Decode many sessions with one model. Any thread may call its methods; leaving a `with` block shuts it down.

    Without `batch_dynamic`, a session yields the same tokens as its stream decoded alone; scores differ by rounding
    only. Two kinds of models are stepped one stream at a time: int8-dynamic models without `batch_dynamic`, because
    their output depends on the batch; and WeNet's models, whose steps take one stream.

    The constructor returns after the warm-up of all workers. Each worker uses one core: the engine sets torch to one
    thread, which may affect the whole process; for onnxruntime, `load_model` sets the number of threads (default: 1).

    Args:
        model: `Recognizer.model` of the recognizer that creates the streams.
        options: number of workers, batch size and limits.

    >>> recognizer = Recognizer("final.zip")  # doctest: +SKIP
    >>> with Engine(recognizer.model, EngineOptions(workers=2)) as engine:  # doctest: +SKIP
    ...     session = engine.open(recognizer.create_stream(), on_update=print)
    ...     session.push(samples, sample_rate)
    ...     session.end()
    ...     engine.drain(10.0)
    """

    def __init__(self, model: AcousticModel, options: EngineOptions = EngineOptions()) -> None:
        self.model = model
        self.options = options
        is_dynamic = model.meta.precision == DYNAMIC and not options.batch_dynamic
        self._max_batch = 1 if is_dynamic or not model.meta.batches else options.max_batch
        self._scheduler = Scheduler(options.max_sessions, self._max_batch, options.max_wait_seconds)
        self._recorder = StatisticsRecorder()
        warm = threading.Semaphore(0)
        self._workers = [
            threading.Thread(target=self._work, args=(warm,), name=f"engine-worker-{number}", daemon=True)
            for number in range(options.workers)
        ]
        for worker in self._workers:
            worker.start()
        for _ in self._workers:
            warm.acquire()

    def open(
        self,
        stream: Stream,
        on_update: OnUpdate,
        on_room: Callable[[], object] | None = None,
        after: Session | None = None,
    ) -> Session:
        """Open a session.

        Args:
            stream: a fresh stream of the engine's model (`Recognizer.create_stream`); the engine owns it from now on.
            on_update: called with each `Update` in a worker's thread; an exception from it ends the session.
            on_room: called in a worker's thread when audio was consumed without an update, e.g. by the resampler. An
                owner that waits for room must use `on_update` and `on_room`.
            after: a session whose owner is about to call `end`; if it is open, the new one may exceed `max_sessions`.
        Raises:
            Unavailable: too many sessions are open, or the engine is shutting down.
        """
        assert stream.model is self.model, "the stream belongs to another model"
        job = Job(stream, on_update, on_room)
        if reason := self._scheduler.add(job, None if after is None else after._job):
            self._recorder.count_refused()
            raise Unavailable(reason)
        self._recorder.count_opened()
        limit = max(self.options.max_waiting_seconds, 2 * job.chunk_seconds)
        return Session(job, self._scheduler, limit, stream.biasing)

    def drain(self, seconds: float) -> int:
        """Refuse new sessions, wait at most `seconds` for the open ones to end, and return how many are left."""
        self._scheduler.close()
        self._scheduler.wait_until_empty(seconds)
        return len(self._scheduler.jobs())

    def shutdown(self) -> None:
        """Stop the workers, wait for them, and fail the sessions that are still open. A second call does nothing.

        Do not call it from `on_update`: a worker cannot wait for itself.
        """
        self._scheduler.stop()
        for worker in self._workers:
            worker.join()
        for job in self._scheduler.jobs():
            self._fail(job, Unavailable("the engine was shut down"))

    @property
    def statistics(self) -> EngineStatistics:
        """Counts and times since the engine started."""
        jobs = self._scheduler.jobs()
        return self._recorder.snapshot(len(jobs), sum(job.waiting_seconds for job in jobs))

    # ---- workers

    def _work(self, warm: threading.Semaphore) -> None:
        try:
            if isinstance(self.model.backend, ThreadedBackend):  # onnxruntime's threads are set when the file is loaded
                self.model.backend.use_one_thread()
            for batch in range(1, min(2, self._max_batch) + 1):  # a backend may use other kernels for a batch of one
                self.model.warm_up(batch)
        except Exception:  # each session reports its own error
            _LOG.exception("the model failed during the warm-up")
        warm.release()
        while self._run(self._scheduler.take()):  # no variable keeps streams alive while a worker waits
            pass

    def _run(self, taken: list[Taken]) -> bool:
        """Decode one block of each job and give the jobs back; return False if `taken` is empty."""
        ready = [each for each in taken if self._prepare(each)]
        if ready:
            start = time.monotonic()
            results = step_streams(self.model, [each.stream for each in ready])
            self._recorder.add_step(len(ready), time.monotonic() - start)
            # Sessions that end come last: the others should not wait for their rescoring.
            for each, result in sorted(zip(ready, results), key=lambda pair: pair[0].ended):
                self._advance(each, result)
        return bool(taken)

    def _prepare(self, taken: Taken) -> bool:
        """Push the audio into the stream; return whether a block is ready. Without a block, give the job back."""
        job, stream = taken.job, taken.stream
        try:
            for piece in taken.pieces:
                if isinstance(piece, Change):
                    stream.set_biasing(piece.biasing)
                else:
                    stream.push(piece.samples, piece.sample_rate)
            if taken.ended:
                stream.end_input()
            if stream.ready_block() is not None:
                return True
            if taken.ended:
                self._deliver(job, Update(tuple(stream.finish()), is_last=True))
        except Exception as error:
            self._fail(job, error)
        self._give_back(taken)
        self._call(job, "on_room", job.on_room)
        return False

    def _advance(self, taken: Taken, result: StepResult | Exception) -> None:
        """Decode the scores of one job, deliver its update and give it back."""
        try:
            if isinstance(result, Exception):
                raise result
            if self._scheduler.is_open(taken.job):
                update = self._decode(taken, result)
                self._scheduler.set_buffered(taken.job, taken.stream.waiting_seconds)
                self._deliver(taken.job, update)
                self._recorder.add_delay(time.monotonic() - taken.due_since)
        except Exception as error:
            self._fail(taken.job, error)
        self._give_back(taken)

    def _decode(self, taken: Taken, result: StepResult) -> Update:
        stream, start = taken.stream, time.monotonic()
        samples = ready_block(stream).length
        finals = stream.advance(*result)
        is_last = taken.ended and stream.ready_block() is None
        if is_last:
            finals += stream.finish()
        stream.forget_finals()  # the update holds them
        update = Update(tuple(finals), None if is_last else stream.result, is_last)
        self._recorder.add_search(samples / self.model.meta.sample_rate, time.monotonic() - start)
        return update

    def _give_back(self, taken: Taken) -> None:
        try:
            waiting, has_block = taken.stream.waiting_seconds, taken.stream.ready_block() is not None
        except Exception as error:  # e.g. MemoryError: fail the session, keep the worker
            self._fail(taken.job, error)
            waiting, has_block = 0.0, False
        self._scheduler.give_back(taken.job, waiting, has_block)

    def _deliver(self, job: Job, update: Update) -> None:
        """Call `on_update` unless the session was closed; a last update removes the job first."""
        if self._scheduler.remove(job) if update.is_last else self._scheduler.is_open(job):
            if update.is_last:
                self._recorder.count_ended(failed=update.error is not None)
            self._call(job, "on_update", functools.partial(job.on_update, update))

    def _call(self, job: Job, name: str, callback: Callable[[], object] | None) -> None:
        """Call a callback of the session's owner, if there is one; an exception from it ends the session."""
        try:
            if callback is not None:
                callback()
        except Exception as error:
            _LOG.exception("%s raised an exception; the session has failed", name)
            self._fail(job, error)

    def _fail(self, job: Job, error: Exception) -> None:
        self._deliver(job, Update(is_last=True, error=error))

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()
