"""Errors, backlogs, dropped sessions and shutdown: each affects only its own session."""

import gc
import threading
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from support.runtime.engine_clients import PATIENCE, RECOGNIZER, SHORT_SEGMENTS, Client, engine, eventually  # noqa: F401 (a fixture)
from support.runtime.fake_model import SAMPLE_RATE, LoudnessModel, make_model, speak
from wenet_fusion_runtime import (
    Backlog,
    DecodingOptions,
    Engine,
    EngineOptions,
    Recognizer,
    Session,
    Unavailable,
    Update,
)


@pytest.mark.parametrize(
    "samples, rate, message",
    [
        (np.array([0.0, np.nan], np.float32), None, "NaN or infinity"),
        (np.array([np.inf], np.float32), None, "NaN or infinity"),
        (np.zeros(3, np.int64), None, "samples are int64"),
        (np.zeros((2, 2, 2), np.float32), None, "have shape"),
        (np.float32(1.0), None, "have shape"),
        (np.zeros(5, np.float32), 16000, "runs at 8000 Hz, found 16000 Hz"),
    ],
)
def test_bad_samples_end_their_session_and_no_other(
    engine: Engine, samples: np.ndarray, rate: int | None, message: str
) -> None:
    good, bad = Client(engine), Client(engine)
    bad.session.push(speak("a"), SAMPLE_RATE)
    bad.session.push(samples, rate)
    bad.session.push(speak("aaaaa"), SAMPLE_RATE)
    good.say(speak("abcd"))
    assert good.wait().text == "a b c d"
    assert isinstance(bad.wait().error, ValueError) and message in str(bad.error) and bad.updates[-1].finals == ()
    bad.session.push(speak("a"))
    bad.session.end()
    assert bad.session.room_seconds == 10.0 and engine.statistics.failed == 1
    with pytest.raises(ValueError, match="rate must be positive, found 0 Hz"):
        bad.session.push(samples, 0)


class Picky(LoudnessModel):
    """Return a model that raises an exception for audio as loud as d."""

    def step(self, samples: torch.Tensor, *rest: Any) -> Any:
        if float(samples.abs().mean(1).max()) > 0.7:
            raise RuntimeError("out of memory")
        return super().step(samples, *rest)


class Damaged(LoudnessModel):
    """Return a model that returns NaN for audio as loud as d."""

    def score(self, loudness: torch.Tensor, lengths: torch.Tensor) -> Any:
        return super().score(torch.where(loudness > 0.7, torch.nan, loudness), lengths)


@pytest.mark.parametrize("model, message", [(Picky, "out of memory"), (Damaged, "not a number")])
def test_a_model_that_fails_for_one_row_fails_that_session(model: type[LoudnessModel], message: str) -> None:
    recognizer = Recognizer(make_model(model()))
    with Engine(recognizer.model) as engine:
        clients = {text: Client(engine, recognizer) for text in ("abc", "d", "cba", "bbb", "dd", "ccc")}
        for text, client in clients.items():
            client.say(speak(text, frames=16))
        for text, client in clients.items():
            if "d" in text:
                assert message in str(client.wait().error)
            else:
                assert (client.wait().error, client.text) == (None, " ".join(text))


def test_a_model_that_fails_on_silence_fails_its_sessions(caplog: pytest.LogCaptureFixture) -> None:
    recognizer = Recognizer(make_model(broken := Picky()))
    broken.step = lambda *_: 1 / 0
    with Engine(recognizer.model) as engine:
        assert "the model failed during the warm-up" in caplog.text
        client = Client(engine, recognizer)
        client.say(speak("a"))
        assert isinstance(client.wait().error, ZeroDivisionError)


def test_a_worker_outlives_a_stream_that_breaks(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the stream fails when its second block is made, after its first block was decoded."""
    bad, good = Client(engine, chunk=4), Client(engine, chunk=4)
    stream, real = bad.session._job.stream, bad.session._job.stream.ready_block

    def ready_block() -> Any:
        if bad.updates:
            raise MemoryError
        return real()

    monkeypatch.setattr(stream, "ready_block", ready_block)
    bad.session.push(speak("abcd"))
    assert isinstance(bad.wait().error, MemoryError)
    good.say(speak("abcd"))
    assert good.wait().text == "a b c d" and engine.drain(PATIENCE) == 0


def test_a_callback_that_raises_ends_its_session_only(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    updates: list[Update] = []

    def broken(update: Update) -> None:
        updates.append(update)
        raise KeyError("bug")

    session, good = engine.open(RECOGNIZER.create_stream(), broken), Client(engine)
    session.push(speak("abcd"))
    good.say(speak("dcba"))
    assert good.wait().text == "d c b a" and eventually(lambda: not session.is_open)
    assert eventually(lambda: len(updates) == 2) and isinstance(updates[1].error, KeyError) and updates[1].is_last
    assert "on_update raised an exception; the session has failed" in caplog.text and engine.statistics.failed == 1


def test_a_backlog_is_refused_and_room_comes_with_updates() -> None:
    hold = threading.Event()

    class Slow(LoudnessModel):
        def step(self, *arguments: Any) -> Any:
            assert hold.wait(PATIENCE)
            return super().step(*arguments)

    hold.set()
    recognizer = Recognizer(make_model(Slow()), DecodingOptions(endpoint=SHORT_SEGMENTS))
    with Engine(recognizer.model, EngineOptions(max_waiting_seconds=1.0)) as engine:
        hold.clear()
        client, samples = Client(engine, recognizer, 4), speak("abcdabcd")
        client.session.push(samples[:8000])
        assert client.session.room_seconds == 0
        with pytest.raises(Backlog, match="1.0 s of audio are waiting and the limit is 1 s"):
            client.session.push(samples[8000:8001])
        assert engine.statistics.waiting_seconds == 1.0
        hold.set()
        client.say(samples[8000:], 500)
        assert client.wait().text == "a b c d a b c d"
        full = Client(engine, recognizer, 8)
        assert full.session.room_seconds == 1.0
    with Engine(recognizer.model, EngineOptions(max_waiting_seconds=0.01)) as engine:
        assert Client(engine, recognizer, 8).session.room_seconds == pytest.approx(0.64), "at least two chunks"


def test_closed_sessions_are_silent_and_free() -> None:
    with Engine(RECOGNIZER.model, EngineOptions(max_sessions=2)) as engine:
        client, other = Client(engine), Client(engine)
        streams = weakref.WeakSet({client.session._job.stream, other.session._job.stream})
        with pytest.raises(Unavailable, match="the limit of 2 open sessions is reached"):
            Client(engine)
        client.session.push(speak("abcd")[:3000])
        client.session.close()
        client.session.close()
        client.session.push(speak("abcd"))
        client.session.end()
        count = len(client.updates)
        third = Client(engine)
        third.say(speak("ab"))
        assert third.wait().text == "a b"
        other.session.close()
        assert eventually(lambda: gc.collect() >= 0 and not streams), "a closed session's stream stays"
        assert len(client.updates) <= count + 1 and not any(update.is_last for update in client.updates)
        found = engine.statistics
        assert (found.opened, found.finished, found.closed, found.refused, found.sessions) == (3, 1, 2, 1, 0)


def test_a_session_may_be_closed_by_its_callback(engine: Engine) -> None:
    box: list[Session] = []
    updates: list[Update] = []

    def take(update: Update) -> None:
        updates.append(update)
        box[0].close()

    box.append(engine.open(RECOGNIZER.create_stream(), take))
    box[0].push(speak("abcd"))
    assert eventually(lambda: not box[0].is_open)
    assert engine.drain(PATIENCE) == 0 and len(updates) == 1


def test_draining_finishes_what_is_open_and_takes_nothing_new(engine: Engine) -> None:
    client, idle = Client(engine), Client(engine)
    client.session.push(speak("abcd"))
    left: list[int] = []
    drain = threading.Thread(target=lambda: left.append(engine.drain(PATIENCE)), daemon=True)
    drain.start()
    assert eventually(lambda: not engine._scheduler._is_open)
    with pytest.raises(Unavailable, match="shutting down"):
        Client(engine)
    client.session.end()
    assert client.wait().text == "a b c d" and drain.is_alive()
    idle.session.end()
    drain.join(PATIENCE)
    assert left == [0] and idle.wait().error is None


def test_a_deadline_ends_the_drain_and_shutdown_fails_the_rest() -> None:
    engine = Engine(RECOGNIZER.model, EngineOptions(workers=2))
    client = Client(engine)
    client.session.push(speak("abcd"))
    assert engine.drain(0.05) == 1
    engine.shutdown()
    engine.shutdown()
    assert isinstance(client.wait().error, Unavailable) and not client.session.is_open
    assert not any(worker.is_alive() for worker in engine._workers)
    assert engine.statistics.failed == 1 and engine.statistics.sessions == 0
