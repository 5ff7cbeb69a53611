"""Workers: the order of updates, closed sessions, the memory of endless streams."""

import numpy as np
from support.runtime.engine_clients import RECOGNIZER, Client, engine, eventually  # noqa: F401 (a fixture)
from support.runtime.fake_model import FRAME, speak
from wenet_fusion_runtime import Engine
from wenet_fusion_runtime.engine.job import Job, Phase, Piece, Taken

BLOCK = np.zeros(8 * FRAME, np.float32)


def taken(engine: Engine, updates: list[str], name: str, ended: bool = False) -> Taken:
    """Return a job with one block, as a worker takes it; each update adds the job's name to `updates`."""
    job = Job(RECOGNIZER.create_stream(), lambda _: updates.append(name))
    assert engine._scheduler.add(job) == "" and job.stream is not None
    job.phase = Phase.TAKEN
    engine._scheduler._taken += 1
    return Taken(job, job.stream, [Piece(BLOCK, None)], ended, 0.0)


def test_sessions_that_go_on_get_their_updates_before_those_that_end() -> None:
    """The last block of a session needs rescoring, and the others should not wait for it."""
    updates: list[str] = []
    with Engine(RECOGNIZER.model) as engine:
        engine._run([taken(engine, updates, "ends", ended=True), taken(engine, updates, "goes on")])
        assert updates[:2] == ["goes on", "ends"]
        assert engine.statistics.batches.counts[1] == 1


def test_a_session_that_was_closed_while_it_was_stepped_gets_no_update() -> None:
    updates: list[str] = []
    with Engine(RECOGNIZER.model) as engine:
        closed = taken(engine, updates, "closed")
        engine._scheduler.remove(closed.job)
        engine._run([closed, taken(engine, updates, "open")])
        assert updates == ["open"] and engine.statistics.audio_seconds == len(BLOCK) / 8000
        assert engine.statistics.delays.count == 1


def test_an_endless_stream_keeps_no_closed_segments(engine: Engine) -> None:
    client = Client(engine)
    stream = client.session._job.stream
    client.session.push(speak("abcd" * 4))
    assert eventually(lambda: sum(len(result.tokens) for result in client.finals) >= 8)
    client.session.end()
    client.wait()
    assert [result for result in stream.finals if result.segment < len(client.finals) - 2] == []


def test_there_is_room_as_soon_as_an_update_comes() -> None:
    """Otherwise an owner that waits for an update before the next push would wait forever once no block is left."""
    waiting: list[float] = []
    with Engine(RECOGNIZER.model) as engine:
        session = engine.open(RECOGNIZER.create_stream(), lambda _: waiting.append(session.waiting_seconds))
        session.push(BLOCK)
        assert eventually(lambda: len(waiting) == 1)
        session.push(np.concatenate([BLOCK, BLOCK[:100]]))
        assert eventually(lambda: len(waiting) == 2)
    assert waiting[:2] == [0.0, 100 / 8000]
