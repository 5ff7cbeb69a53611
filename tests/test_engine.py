"""Engines: any number of sessions from any thread, each with its own text, errors and end; nothing is left behind."""

import gc
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from fake_model import FRAME, SAMPLE_RATE, LoudnessModel, make_model, speak

from wenet_fusion_runtime import (
    Backlog, DecodingOptions, Engine, EngineOptions, Recognizer, Result, Session, Unavailable, Update,
)
from wenet_fusion_runtime.endpoint import EndpointRules
from wenet_fusion_runtime.meta import DYNAMIC

SHORT_SEGMENTS = EndpointRules(rule3_seconds=0.4, rule3_silence_seconds=0.08, rule3_extra_seconds=0.2)
RECOGNIZER = Recognizer(make_model(), DecodingOptions(endpoint=SHORT_SEGMENTS))
PATIENCE = 20.0    # seconds until a test gives up


class Client:
    """Opens a session and collects its updates."""

    def __init__(self, engine: Engine, recognizer: Recognizer = RECOGNIZER, chunk: int | None = None) -> None:
        self.updates: list[Update] = []
        self._over = threading.Event()
        self._changed = threading.Event()
        self.session = engine.open(recognizer.create_stream(chunk), self._take)

    def _take(self, update: Update) -> None:
        self.updates.append(update)
        self._changed.set()
        if update.is_last:
            self._over.set()

    def say(self, samples: np.ndarray, piece: int = 1600, sample_rate: int | None = None) -> None:
        """Everything, as fast as there is room, and the end."""
        for start in range(0, len(samples), piece):
            part = samples[start : start + piece]
            while self.session.room_seconds < len(part) / (sample_rate or SAMPLE_RATE):
                self._changed.clear()
                assert self._changed.wait(PATIENCE)
            self.session.push(part, sample_rate)
        self.session.end()

    def wait(self) -> "Client":
        assert self._over.wait(PATIENCE), f"no last update; {len(self.updates)} came"
        return self

    @property
    def finals(self) -> list[Result]:
        return [result for update in self.updates for result in update.finals]

    @property
    def text(self) -> str:
        return " ".join(result.text for result in self.finals if result.text)

    @property
    def error(self) -> Exception | None:
        return self.updates[-1].error


@pytest.fixture(params=[1, 2])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with Engine(RECOGNIZER.model, EngineOptions(workers=request.param)) as made:
        yield made


def alone(samples: np.ndarray, chunk: int | None = None, sample_rate: int | None = None) -> list[Result]:
    stream = RECOGNIZER.create_stream(chunk)
    return stream.accept_waveform(samples, sample_rate) + stream.finish()


def shown(results: list[Result]) -> list[tuple]:
    return [(result.text, result.endpoint, result.end_seconds, [token[:4] for token in result.tokens]) for result in results]


def eventually(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < end:
        time.sleep(0.002)
    return condition()


def test_sessions_read_what_streams_read(engine: Engine) -> None:
    texts = ["abcd", "dcba", "", "a a a", "dd", "cab" * 5]
    clients = [(text, chunk, Client(engine, chunk=chunk)) for text in texts for chunk in (4, 8)]
    for text, _, client in clients:
        client.say(speak(text), piece=random.Random(text).choice([77, 640, 5000]))
    for text, chunk, client in clients:
        assert shown(client.wait().finals) == shown(alone(speak(text), chunk))
        assert client.text == " ".join(text.replace(" ", "")) and client.error is None
    found = engine.statistics
    assert (found.opened, found.finished, found.failed, found.closed, found.sessions) == (12, 12, 0, 0, 0)
    assert found.audio_seconds == pytest.approx(sum(2 * (len(speak(text)) + 800) / SAMPLE_RATE for text in texts))
    assert found.batches.total == found.delays.count >= found.steps.count == found.batches.count
    assert 0 < found.real_time_factor < 1 and found.step_seconds == pytest.approx(found.steps.total)


def test_updates_tell_the_course_of_a_session(engine: Engine) -> None:
    client = Client(engine, chunk=4)
    client.say(speak("abc"))
    *before, last = client.wait().updates
    ends = [update.partial.end_seconds for update in before]
    assert ends == sorted(ends) and len(before) == (len(speak("abc")) + 800) // (4 * FRAME)
    assert all(not update.partial.is_final and update.error is None and not update.is_last for update in before)
    assert (last.is_last, last.partial, last.error) == (True, None, None) and last.finals[-1].is_final
    assert not client.session.is_open and client.session.waiting_seconds == 0


@pytest.mark.parametrize("length", [0, 1, 8 * FRAME - 800, 8 * FRAME])
def test_every_length_comes_to_its_end(engine: Engine, length: int) -> None:
    samples = speak("abcd")[:length]
    client = Client(engine)
    client.say(samples)
    assert shown(client.wait().finals) == shown(alone(samples))


def test_a_model_without_a_tail_and_a_session_without_audio() -> None:
    recognizer = Recognizer(make_model(tail_samples=0))
    with Engine(recognizer.model) as engine:
        empty, whole = Client(engine, recognizer), Client(engine, recognizer)
        empty.say(np.zeros(0, np.float32))
        whole.session.push(speak("ab", 3, 2)[: 8 * FRAME])    # one whole block, decoded before the end comes
        assert eventually(lambda: len(whole.updates) == 1)
        whole.session.end()
        assert len(empty.wait().updates) == 1 and empty.text == ""
        assert whole.wait().text == "a b" and len(whole.updates) == 2


def test_other_rates_and_types(engine: Engine) -> None:
    doubled = np.repeat(speak("abcd"), 2)
    for samples in (doubled, (32767 * doubled).astype(np.int16), np.stack([doubled] * 2, axis=1)):
        client = Client(engine)
        client.say(samples, 1000, 2 * SAMPLE_RATE)
        assert shown(client.wait().finals) == shown(alone(samples, None, 2 * SAMPLE_RATE)) and len(client.text) > 5


def test_pushed_samples_are_a_copy_and_loud_ones_are_clipped(engine: Engine) -> None:
    client, buffer = Client(engine), np.empty(400, np.float32)
    samples = speak("abcd")
    for start in range(0, len(samples), 400):
        part = buffer[: len(samples[start : start + 400])]
        part[:] = samples[start : start + 400]
        client.session.push(part)
        buffer[:] = 0.8
    client.session.end()
    assert client.wait().text == "a b c d"
    loud = Client(engine)
    loud.say(np.full(5000, 1e6, np.float32))    # the model in memory asserts that what it gets is clipped
    assert loud.wait().error is None


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
    """Refuses what is as loud as d."""

    def step(self, samples: torch.Tensor, *rest: Any) -> Any:
        if float(samples.abs().mean(1).max()) > 0.7:
            raise RuntimeError("out of memory")
        return super().step(samples, *rest)


class Damaged(LoudnessModel):
    """Says NaN of what is as loud as d."""

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


def test_what_takes_updates_and_raises_ends_its_session_only(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    updates: list[Update] = []

    def broken(update: Update) -> None:
        updates.append(update)
        raise KeyError("bug")

    session, good = engine.open(RECOGNIZER.create_stream(), broken), Client(engine)
    session.push(speak("abcd"))
    good.say(speak("dcba"))
    assert good.wait().text == "d c b a" and eventually(lambda: not session.is_open)
    assert eventually(lambda: len(updates) == 2) and isinstance(updates[1].error, KeyError) and updates[1].is_last
    assert "what takes a session's updates failed" in caplog.text and engine.statistics.failed == 1


def test_a_backlog_is_refused_and_room_comes_with_updates() -> None:
    hold = threading.Event()

    class Slow(LoudnessModel):
        def step(self, *arguments: Any) -> Any:
            assert hold.wait(PATIENCE)
            return super().step(*arguments)

    hold.set()
    recognizer = Recognizer(make_model(Slow()), DecodingOptions(endpoint=SHORT_SEGMENTS))
    hold.clear()
    with Engine(recognizer.model, EngineOptions(max_waiting_seconds=1.0)) as engine:
        client, samples = Client(engine, recognizer, 4), speak("abcdabcd")
        client.session.push(samples[:8000])
        assert client.session.room_seconds == 0
        with pytest.raises(Backlog, match="1.0 s of audio wait to be decoded and 1 s may"):
            client.session.push(samples[8000:8001])
        assert engine.statistics.waiting_seconds == 1.0
        hold.set()
        client.say(samples[8000:], 500)
        assert client.wait().text == "a b c d a b c d"
        full = Client(engine, recognizer, 8)
        assert full.session.room_seconds == 1.0
    with Engine(recognizer.model, EngineOptions(max_waiting_seconds=0.01)) as engine:
        assert Client(engine, recognizer, 8).session.room_seconds == pytest.approx(0.64), "two chunks at least"


def test_closed_sessions_are_silent_and_free() -> None:
    with Engine(RECOGNIZER.model, EngineOptions(max_sessions=2)) as engine:
        client, other = Client(engine), Client(engine)
        streams = weakref.WeakSet({client.session._job.stream, other.session._job.stream})
        with pytest.raises(Unavailable, match="2 sessions are open, and no more may be"):
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


def test_a_session_may_be_closed_by_what_takes_its_updates(engine: Engine) -> None:
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
    assert eventually(lambda: not engine._schedule._admits)
    with pytest.raises(Unavailable, match="being shut down"):
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


def batch_sizes(engine: Engine) -> int:
    """The largest batch so far, as the histogram knows it."""
    counts = engine.statistics.batches.counts
    return max(index for index, count in enumerate(counts) if count)


def test_dynamic_int8_is_stepped_alone_unless_the_operator_asks() -> None:
    recognizer = Recognizer(make_model(precision=DYNAMIC))
    for batched in (False, True):
        with Engine(recognizer.model, EngineOptions(batch_dynamic=batched)) as engine:
            clients = [Client(engine, recognizer) for _ in range(8)]
            with engine._schedule._changed:    # no worker takes anything until all have pushed
                threads = [threading.Thread(target=client.say, args=(speak("ab"),)) for client in clients]
                for thread in threads:
                    thread.start()
            for client, thread in zip(clients, threads):
                thread.join(PATIENCE)
                assert client.wait().text == "a b"
            assert (batch_sizes(engine) > 0) == batched


def test_options_are_checked() -> None:
    for wrong, message in (
        ({"workers": 0}, "workers must be at least 1"), ({"max_batch": 0}, "max_batch must be at least 1"),
        ({"max_sessions": -1}, "max_sessions must be at least 1"), ({"max_wait_seconds": 2.0}, "must be 0 to 1"),
        ({"max_wait_seconds": float("nan")}, "must be 0 to 1"), ({"max_waiting_seconds": 0.0}, "must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            EngineOptions(**wrong)


def test_many_sessions_from_many_threads() -> None:
    """Some vanish, some send rubbish, the rest read what they say; then nothing is left."""
    problems: list[str] = []
    streams: weakref.WeakSet = weakref.WeakSet()
    counts = {"good": 0, "bad": 0, "gone": 0}
    lock = threading.Lock()

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(12):
            text = "".join(rng.choice("abcd") for _ in range(rng.randint(0, 6)))
            samples, fate = speak(text), rng.choices(["good", "bad", "gone"], [8, 1, 2])[0]
            client = Client(engine, chunk=rng.choice([4, 8]))
            with lock:
                streams.add(client.session._job.stream)
                counts[fate] += 1
            if fate == "gone":
                client.session.push(samples[: rng.randint(0, len(samples))])
                client.session.close()
            elif fate == "bad":
                client.session.push(samples)
                client.session.push(np.array([np.nan], np.float32))
                if client.wait().error is None:
                    problems.append(f"{text}: no error")
            else:
                client.say(samples, rng.randint(50, 4000))
                if client.wait().text != " ".join(text):
                    problems.append(f"'{client.text}' instead of '{text}'")

    with Engine(RECOGNIZER.model, EngineOptions(workers=3, max_batch=8)) as engine:
        threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        assert problems == [] and engine.drain(PATIENCE) == 0
        found = engine.statistics
        assert (found.opened, found.sessions, found.waiting_seconds) == (96, 0, 0)
        assert (found.finished, found.failed, found.closed) == (counts["good"], counts["bad"], counts["gone"])
        assert found.batches.total > found.batches.count, "nothing was ever batched"
        gc.collect()
        assert len(streams) == 0
