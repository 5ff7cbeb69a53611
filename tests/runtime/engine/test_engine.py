"""Engines: sessions from many threads have the texts of single streams, and leave no memory behind."""

import gc
import random
import threading
import weakref

import numpy as np
import pytest
from support.runtime.engine_clients import PATIENCE, RECOGNIZER, Client, engine, eventually  # noqa: F401 (a fixture)
from support.runtime.fake_model import FRAME, SAMPLE_RATE, make_model, speak
from wenet_fusion_runtime import Engine, EngineOptions, Recognizer, Result
from wenet_fusion_runtime.model.metadata import DYNAMIC


def alone(samples: np.ndarray, chunk: int | None = None, sample_rate: int | None = None) -> list[Result]:
    stream = RECOGNIZER.create_stream(chunk)
    return stream.accept_waveform(samples, sample_rate) + stream.finish()


def shown(results: list[Result]) -> list[tuple]:
    return [
        (result.text, result.endpoint, result.end_seconds, [token[:4] for token in result.tokens]) for result in results
    ]


def test_sessions_have_the_texts_of_streams(engine: Engine) -> None:
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
    assert found.search_seconds > 0


def test_updates_describe_the_course_of_a_session(engine: Engine) -> None:
    client = Client(engine, chunk=4)
    client.say(speak("abc"))
    *before, last = client.wait().updates
    ends = [update.partial.end_seconds for update in before]
    assert ends == sorted(ends) and len(before) == (len(speak("abc")) + 800) // (4 * FRAME)
    assert all(not update.partial.is_final and update.error is None and not update.is_last for update in before)
    assert (last.is_last, last.partial, last.error) == (True, None, None) and last.finals[-1].is_final
    assert not client.session.is_open and client.session.waiting_seconds == 0


@pytest.mark.parametrize("length", [0, 1, 8 * FRAME - 800, 8 * FRAME])
def test_audio_of_every_length_is_decoded_to_its_end(engine: Engine, length: int) -> None:
    samples = speak("abcd")[:length]
    client = Client(engine)
    client.say(samples)
    assert shown(client.wait().finals) == shown(alone(samples))


def test_a_model_without_right_padding_and_a_session_without_audio() -> None:
    recognizer = Recognizer(make_model(tail_samples=0))
    with Engine(recognizer.model) as engine:
        empty, whole = Client(engine, recognizer), Client(engine, recognizer)
        empty.say(np.zeros(0, np.float32))
        whole.session.push(speak("ab", 3, 2)[: 8 * FRAME])  # one whole block, decoded before `end`
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
    loud.say(np.full(5000, 2.0, np.float32))  # the model in memory asserts that its input is clipped
    assert loud.wait().error is None


def batch_sizes(engine: Engine) -> int:
    """Return the largest batch so far, from the histogram."""
    counts = engine.statistics.batches.counts
    return max(index for index, count in enumerate(counts) if count)


def test_dynamic_int8_is_stepped_alone_unless_the_operator_asks() -> None:
    recognizer = Recognizer(make_model(precision=DYNAMIC))
    for batched in (False, True):
        with Engine(recognizer.model, EngineOptions(batch_dynamic=batched)) as engine:
            clients = [Client(engine, recognizer) for _ in range(8)]
            with engine._scheduler._changed:  # no worker takes anything until all have pushed
                threads = [threading.Thread(target=client.say, args=(speak("ab"),)) for client in clients]
                for thread in threads:
                    thread.start()
            for client, thread in zip(clients, threads):
                thread.join(PATIENCE)
                assert client.wait().text == "a b"
            assert (batch_sizes(engine) > 0) == batched


def test_options_are_checked() -> None:
    for wrong, message in (
        ({"workers": 0}, "workers must be at least 1"),
        ({"max_batch": 0}, "max_batch must be at least 1"),
        ({"max_sessions": -1}, "max_sessions must be at least 1"),
        ({"max_wait_seconds": 2.0}, "must be 0 to 1"),
        ({"max_wait_seconds": float("nan")}, "must be 0 to 1"),
        ({"max_waiting_seconds": 0.0}, "must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            EngineOptions(**wrong)


def test_many_sessions_from_many_threads() -> None:
    """Some clients vanish, some send invalid audio, the others get their text; then no memory is left."""
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
