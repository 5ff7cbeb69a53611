"""Many streams on one model: blocks that are ready at the same time are stepped as one batch. Knows no network."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from types import TracebackType

from wenet_fusion_runtime.engine.batched_step import Stepped, step_streams
from wenet_fusion_runtime.engine.scheduler import Job, Schedule, Taken
from wenet_fusion_runtime.engine.session import OnUpdate, Session, Unavailable, Update
from wenet_fusion_runtime.engine.statistics import EngineStatistics, Recorder
from wenet_fusion_runtime.model.acoustic_model import AcousticModel
from wenet_fusion_runtime.model.metadata import DYNAMIC
from wenet_fusion_runtime.stream.recognizer import Stream

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineOptions:
    """How an engine shares the machine among its sessions.

    Raises:
        ValueError: a value is out of its range.
    """

    workers: int = 1  # threads that step the model, each on one core
    max_batch: int = 16  # streams in one step
    max_wait_seconds: float = 0.003  # that a block waits for others that are about to come
    max_sessions: int = 1000  # open ones
    max_waiting_seconds: float = 10.0  # audio of a session that may wait, or two chunks if that is more
    batch_dynamic: bool = False  # batch int8 files whose scales follow the batch, against what they say alone

    def __post_init__(self) -> None:
        for name in ("workers", "max_batch", "max_sessions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
        if not 0 <= self.max_wait_seconds <= 1:
            raise ValueError(f"max_wait_seconds must be 0 to 1, found {self.max_wait_seconds}")
        if not self.max_waiting_seconds > 0:
            raise ValueError(f"max_waiting_seconds must be positive, found {self.max_waiting_seconds}")


class Engine:
    """Decodes many sessions with one model. Its methods may be called from any thread; leaving a `with` block shuts it
    down.

        engine = Engine(recognizer.model, EngineOptions(workers=2))
        session = engine.open(recognizer.create_stream(), on_update=print)
        session.push(samples, sample_rate)
        session.end()

    Tokens are those of a stream alone, scores differ by rounding at most. Files of precision int8-dynamic, whose output
    depends on the batch, are stepped one stream at a time unless `batch_dynamic` says otherwise.

    Making an engine takes as long as its workers need to warm up. A worker keeps one core busy: the model's own threads
    are set to one, which with torch is a setting of the whole process.

    Args:
        model: of the recognizer that makes the streams.
        options: see there.
    """

    def __init__(self, model: AcousticModel, options: EngineOptions = EngineOptions()) -> None:
        self.model = model
        self.options = options
        alone = model.meta.precision == DYNAMIC and not options.batch_dynamic
        self._schedule = Schedule(options.max_sessions, 1 if alone else options.max_batch, options.max_wait_seconds)
        self._recorder = Recorder()
        warm = threading.Semaphore(0)
        self._workers = [
            threading.Thread(target=self._work, args=(warm,), name=f"engine-worker-{number}", daemon=True)
            for number in range(options.workers)
        ]
        for worker in self._workers:
            worker.start()
        for _ in self._workers:
            warm.acquire()

    def open(self, stream: Stream, on_update: OnUpdate) -> Session:
        """Begin a session.

        Args:
            stream: a fresh one of the engine's model, `Recognizer.create_stream`; nobody else touches it from now on.
            on_update: called with each `Update`, by a worker; what it raises ends the session.
        Raises:
            Unavailable: too many sessions are open, or the engine is being shut down.
        """
        assert stream.model is self.model, "the stream is of another model"
        job = Job(stream, on_update)
        if reason := self._schedule.add(job):
            self._recorder.refused()
            raise Unavailable(reason)
        self._recorder.opened()
        limit = max(self.options.max_waiting_seconds, 2 * job.chunk_seconds)
        return Session(job, self._schedule, limit)

    def drain(self, seconds: float) -> int:
        """Open no more sessions and wait until those that are open have ended, `seconds` at most; returns how many are
        left."""
        self._schedule.close()
        self._schedule.wait_until_empty(seconds)
        return len(self._schedule.jobs())

    def shutdown(self) -> None:
        """Fail the sessions that are left, stop the workers and wait for them, so no worker may call it. Calling it again
        changes nothing."""
        self._schedule.stop()
        for worker in self._workers:
            worker.join()
        for job in self._schedule.jobs():
            self._fail(job, Unavailable("the engine was shut down"))

    @property
    def statistics(self) -> EngineStatistics:
        """What happened so far."""
        jobs = self._schedule.jobs()
        return self._recorder.statistics(len(jobs), sum(job.waiting_seconds for job in jobs))

    # ---- workers

    def _work(self, warm: threading.Semaphore) -> None:
        try:
            self.model.use_one_thread()
            for batch in (1, 2):  # different kernels may run them
                self.model.warm_up(batch)
        except Exception:  # sessions will get errors of their own
            _LOG.exception("the model failed on silence")
        warm.release()
        while self._run(self._schedule.take()):  # and keeps no reference to what it ran
            pass

    def _run(self, taken: list[Taken]) -> bool:
        """Steps the jobs over one block each, and gives them back; returns whether there were any."""
        ready = [each for each in taken if self._prepare(each)]
        if ready:
            start = time.monotonic()
            found = step_streams(self.model, [each.stream for each in ready])
            self._recorder.stepped(len(ready), time.monotonic() - start)
            # Sessions that end come last: what they need for their final text, those that go on need not wait for.
            for each, stepped in sorted(zip(ready, found), key=lambda pair: pair[0].ended):
                self._advance(each, stepped)
        return bool(taken)

    def _prepare(self, taken: Taken) -> bool:
        """Puts what was pushed into the stream; returns whether a block is ready, else the job is given back."""
        job, stream = taken.job, taken.stream
        try:
            for piece in taken.pieces:
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
        return False

    def _advance(self, taken: Taken, stepped: Stepped | Exception) -> None:
        """Search, closing of segments and the update of one job."""
        try:
            if isinstance(stepped, Exception):
                raise stepped
            if self._schedule.is_open(taken.job):
                self._deliver(taken.job, self._decode(taken, stepped))
                self._recorder.delivered(time.monotonic() - taken.due_since)
        except Exception as error:
            self._fail(taken.job, error)
        self._give_back(taken)

    def _decode(self, taken: Taken, stepped: Stepped) -> Update:
        stream, start = taken.stream, time.monotonic()
        samples = stream.ready_block().length
        finals = stream.advance(*stepped)
        is_last = taken.ended and stream.ready_block() is None
        if is_last:
            finals += stream.finish()
        stream.forget_finals()  # their owner has them
        update = Update(tuple(finals), None if is_last else stream.result, is_last)
        self._recorder.decoded(samples / self.model.meta.sample_rate, time.monotonic() - start)
        return update

    def _give_back(self, taken: Taken) -> None:
        try:
            waiting, has_block = taken.stream.waiting_seconds, taken.stream.ready_block() is not None
        except Exception as error:  # such as no memory for the block: a worker must live on
            self._fail(taken.job, error)
            waiting, has_block = 0.0, False
        self._schedule.give_back(taken.job, waiting, has_block)

    def _deliver(self, job: Job, update: Update) -> None:
        """Hands over an update, unless the session was closed; after the last one the job is gone."""
        if self._schedule.remove(job) if update.is_last else self._schedule.is_open(job):
            if update.is_last:
                self._recorder.ended(failed=update.error is not None)
            try:
                job.on_update(update)
            except Exception as error:
                _LOG.exception("what takes a session's updates failed")
                self._fail(job, error)

    def _fail(self, job: Job, error: Exception) -> None:
        self._deliver(job, Update(is_last=True, error=error))

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()
