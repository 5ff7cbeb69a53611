"""Statistics of engines: every event is counted once, in the right interval."""

import pytest
from wenet_fusion_runtime.engine.statistics import BATCH_BOUNDS, StatisticsRecorder


def test_every_event_is_counted() -> None:
    recorder = StatisticsRecorder()
    for _ in range(7):
        recorder.count_opened()
    recorder.count_refused()
    for failed in (True, False, False):
        recorder.count_ended(failed)
    recorder.add_step(streams=3, seconds=0.03)
    recorder.add_search(audio_seconds=2.0, seconds=0.01)
    recorder.add_delay(0.2)
    found = recorder.snapshot(sessions=1, waiting_seconds=0.5)
    assert (found.sessions, found.waiting_seconds, found.opened, found.refused) == (1, 0.5, 7, 1)
    assert (found.finished, found.failed, found.closed) == (2, 1, 3)
    assert (found.audio_seconds, found.step_seconds, found.search_seconds) == (2.0, 0.03, 0.01)
    assert found.real_time_factor == pytest.approx(0.02)
    assert (found.batches.total, found.steps.total, found.delays.total) == (3.0, 0.03, 0.2)


def test_a_value_on_a_bound_belongs_to_the_interval_below() -> None:
    recorder = StatisticsRecorder()
    for streams in (1, 2, 3, 4, 64, 65):
        recorder.add_step(streams, 0.0)
    batches = recorder.snapshot(0, 0.0).batches
    assert batches.bounds == BATCH_BOUNDS and batches.counts == (1, 1, 2, 0, 0, 0, 1, 1) and batches.count == 6


def test_an_engine_that_decoded_nothing_has_no_real_time_factor() -> None:
    assert StatisticsRecorder().snapshot(0, 0.0).real_time_factor == 0.0
