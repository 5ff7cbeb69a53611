"""The scheduler with a clock that the test moves: which jobs share a step, and when it begins."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from support.runtime.fake_model import FRAME, SAMPLE_RATE, make_model
from wenet_fusion_runtime import Recognizer
from wenet_fusion_runtime.engine.job import Job, Phase
from wenet_fusion_runtime.engine.scheduler import Scheduler

CHUNK = 4 * FRAME  # samples
WAIT = 0.003
RECOGNIZER = Recognizer(make_model())


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def schedule(clock: Clock) -> Iterator[Scheduler]:
    made = Scheduler(max_jobs=8, max_batch=4, max_wait_seconds=WAIT, clock=clock)
    yield made
    made.stop()


def add(schedule: Scheduler, chunk: int = 4) -> Job:
    job = Job(RECOGNIZER.create_stream(chunk), on_update=print)
    assert schedule.add(job) == ""
    return job


def push(schedule: Scheduler, job: Job, samples: int, rate: int | None = None) -> bool:
    return schedule.push(job, np.zeros(samples, np.float32), rate, limit_seconds=10.0)


def take(schedule: Scheduler) -> list[Job]:
    """Return the jobs that a worker gets without waiting."""
    found: list[Job] = []
    worker = threading.Thread(target=lambda: found.extend(each.job for each in schedule.take()), daemon=True)
    worker.start()
    worker.join(5)
    assert not worker.is_alive(), "no job is due"
    return found


def test_a_job_is_due_when_its_block_is_complete(schedule: Scheduler) -> None:
    job = add(schedule)
    push(schedule, job, CHUNK - 1)
    assert job.phase is Phase.IDLE
    push(schedule, job, 1)
    assert job.phase is Phase.QUEUED and take(schedule) == [job]
    assert job.phase is Phase.TAKEN and job.pieces == []
    assert schedule.waiting_seconds(job) == pytest.approx(CHUNK / SAMPLE_RATE), "audio waits until it is decoded"
    push(schedule, job, 3 * CHUNK)
    assert job.phase is Phase.TAKEN, "only one worker takes a job"
    schedule.give_back(job, 0.0, False)
    assert job.phase is Phase.QUEUED


def test_undecoded_audio_counts_and_the_end_is_due(schedule: Scheduler) -> None:
    job = add(schedule)
    push(schedule, job, CHUNK)
    take(schedule)
    schedule.give_back(job, (CHUNK - 100) / SAMPLE_RATE, False)
    push(schedule, job, 99)
    assert job.phase is Phase.IDLE and schedule.waiting_seconds(job) == pytest.approx((CHUNK - 1) / SAMPLE_RATE)
    schedule.end(job)
    assert take(schedule) == [job]
    with pytest.raises(ValueError, match="the audio of this session has ended"):
        push(schedule, job, 1)


def test_a_block_that_is_almost_complete_is_taken_once_per_push(schedule: Scheduler) -> None:
    """Resampled audio comes in bursts, so a worker takes a job whose block is almost complete, once for each push."""
    job = add(schedule, 8)
    push(schedule, job, 2 * 4 * FRAME, rate=2 * SAMPLE_RATE)
    assert job.phase is Phase.QUEUED
    take(schedule)
    schedule.give_back(job, 4 * FRAME / SAMPLE_RATE, False)
    assert job.phase is Phase.IDLE


def test_jobs_of_one_group_share_a_step_in_the_order_of_arrival(schedule: Scheduler, clock: Clock) -> None:
    jobs = [add(schedule, chunk) for chunk in (4, 8, 4, 4, 8)]
    for job in jobs[::-1]:
        clock.now += 1.0
        push(schedule, job, 2 * CHUNK)
    clock.now += 1.0
    assert take(schedule) == [jobs[4], jobs[1]]
    assert take(schedule) == [jobs[3], jobs[2], jobs[0]]


def test_the_size_of_a_batch_is_limited(schedule: Scheduler) -> None:
    jobs = [add(schedule) for _ in range(6)]
    for job in jobs:
        push(schedule, job, CHUNK)
    assert [take(schedule), take(schedule)] == [jobs[:4], jobs[4:]]


def test_free_workers_share(schedule: Scheduler, clock: Clock) -> None:
    jobs, found = [add(schedule) for _ in range(4)], []
    workers = [threading.Thread(target=lambda: found.append(schedule.take()), daemon=True) for _ in range(2)]
    schedule._free_workers += 1  # as if the second worker waited before the first job comes
    for job in jobs:
        push(schedule, job, CHUNK)
    workers[0].start()
    workers[0].join(5)
    schedule._free_workers -= 1
    workers[1].start()
    workers[1].join(5)
    assert [[each.job for each in batch] for batch in found] == [jobs[:2], jobs[2:]]


def seconds_to_wait(schedule: Scheduler) -> float:
    return schedule._seconds_to_wait(next(iter(schedule._queues.values())))


def test_a_job_does_not_wait_if_no_other_is_expected(schedule: Scheduler, clock: Clock) -> None:
    job, other, different = add(schedule), add(schedule), add(schedule, 8)
    push(schedule, different, CHUNK)
    push(schedule, job, CHUNK)
    different.last_push = clock.now + WAIT / 2 - CHUNK / SAMPLE_RATE  # complete within the wait at this pace ...
    assert clock.now < different.expected() < clock.now + WAIT
    assert seconds_to_wait(schedule) == 0.0, "... but of another chunk size; the third job never pushed anything"
    push(schedule, other, CHUNK // 4)
    assert seconds_to_wait(schedule) == 0.0, "the other one needs three more pieces"


def test_a_block_waits_for_another_that_is_about_to_come(schedule: Scheduler, clock: Clock) -> None:
    early, late = add(schedule), add(schedule)
    for _ in range(3):
        push(schedule, early, CHUNK // 4)
        clock.now += 0.001
        push(schedule, late, CHUNK // 4)
        clock.now += 0.039
    push(schedule, early, CHUNK // 4)
    assert seconds_to_wait(schedule) == pytest.approx(WAIT)
    clock.now += 0.001
    push(schedule, late, CHUNK // 4)
    assert seconds_to_wait(schedule) == 0.0, "no other job is expected"
    assert take(schedule) == [early, late]


def test_the_wait_is_bounded(schedule: Scheduler, clock: Clock) -> None:
    early, late = add(schedule), add(schedule)
    push(schedule, late, CHUNK // 2)
    clock.now += CHUNK / 2 / SAMPLE_RATE - 0.001
    push(schedule, early, CHUNK)
    assert seconds_to_wait(schedule) == pytest.approx(WAIT)
    clock.now += WAIT
    assert seconds_to_wait(schedule) == 0.0 and take(schedule) == [early]


def test_a_removed_job_holds_nothing_and_is_not_queued(schedule: Scheduler) -> None:
    jobs = [add(schedule) for _ in range(3)]
    push(schedule, jobs[0], 10)
    push(schedule, jobs[1], CHUNK)
    push(schedule, jobs[2], CHUNK)
    taken = take(schedule)
    push(schedule, jobs[1], 7)
    for job in jobs:
        assert schedule.remove(job) and not schedule.remove(job)
        assert (job.stream, job.pieces, job.waiting_seconds, job.phase) == (None, [], 0.0, Phase.DONE)
    assert push(schedule, jobs[0], 10) and jobs[0].pieces == []
    schedule.end(jobs[0])
    assert not schedule.wait_until_empty(0.0), "a worker still holds jobs"
    for job in taken:
        schedule.give_back(job, 1.0, True)
    assert schedule.wait_until_empty(0.0) and schedule._queues == {} and jobs[1].phase is Phase.DONE


def test_a_queued_job_that_is_removed_is_not_taken(schedule: Scheduler) -> None:
    jobs = [add(schedule) for _ in range(2)]
    for job in jobs:
        push(schedule, job, CHUNK)
    schedule.remove(jobs[0])
    assert take(schedule) == [jobs[1]]


def test_jobs_and_audio_are_limited(schedule: Scheduler) -> None:
    jobs = [add(schedule) for _ in range(8)]
    assert schedule.add(Job(RECOGNIZER.create_stream(), print)) == "the limit of 8 open sessions is reached"
    schedule.remove(jobs[0])
    add(schedule)
    job = jobs[1]
    assert push(schedule, job, 10 * SAMPLE_RATE) and not push(schedule, job, 1)
    assert schedule.waiting_seconds(job) == 10.0
    schedule.close()
    schedule.remove(jobs[2])
    assert schedule.add(Job(RECOGNIZER.create_stream(), print)) == "the engine is shutting down"


def test_stopping_wakes_the_workers() -> None:
    schedule, found = Scheduler(8, 4, WAIT), []
    workers = [threading.Thread(target=lambda: found.append(schedule.take()), daemon=True) for _ in range(3)]
    for worker in workers:
        worker.start()
    schedule.stop()
    for worker in workers:
        worker.join(5)
    assert found == [[], [], []]
