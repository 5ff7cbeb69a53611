"""Sessions in asyncio: audio waits for room and is never lost; a bounded number of updates waits for the reader."""

import asyncio
import threading
from typing import Any

import numpy as np
import pytest
from support.runtime.engine_clients import PATIENCE
from support.runtime.fake_model import SAMPLE_RATE, LoudnessModel, make_model, speak
from wenet_fusion_runtime import DecodingOptions, EndpointRules, Engine, EngineOptions, Recognizer, Update
from wenet_fusion_runtime.server import live_session
from wenet_fusion_runtime.server.live_session import LiveSession
from wenet_fusion_runtime.stream import blocks

SMALL = EngineOptions(max_waiting_seconds=1.0)  # room for a piece and a chunk
EVERY_FRAME = EndpointRules(0.04, 0.04, 0.04, 0.0, 0.0)  # closes a segment at each frame


class Held(LoudnessModel):
    """A model that waits in `step` until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()
        self.released.set()

    def step(self, *arguments: Any) -> Any:
        assert self.released.wait(PATIENCE)
        return super().step(*arguments)


def print_nothing() -> None:
    """Do nothing, in place of a counter."""


def test_audio_waits_for_room_and_none_is_lost() -> None:
    recognizer, samples = Recognizer(make_model()), speak("abcd" * 5)
    assert len(samples) / SAMPLE_RATE > 4

    async def run() -> str:
        with Engine(recognizer.model, SMALL) as engine:
            session = LiveSession(engine, recognizer.create_stream(), print_nothing)
            pushing = asyncio.ensure_future(session.push(samples, SAMPLE_RATE))
            pushing.add_done_callback(lambda _: session.end())
            updates = [update async for update in session.updates()]
            return " ".join(result.text for update in updates for result in update.finals)

    assert asyncio.run(run()) == " ".join("abcd" * 5)


class Hoarder:
    """A resampler that keeps all samples to the end."""

    def __init__(self, source_rate: int, target_rate: int) -> None:
        self._kept = [np.zeros(0, np.float32)]

    def process(self, samples: np.ndarray, last: bool = False) -> np.ndarray:
        self._kept.append(samples)
        return np.concatenate(self._kept) if last else self._kept[0]


def test_audio_that_the_resampler_keeps_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A push may wait although no update is due."""
    monkeypatch.setattr(blocks, "Resampler", Hoarder)
    recognizer, samples = Recognizer(make_model()), np.tile(speak("abcd"), 20)

    async def run() -> str:
        with Engine(recognizer.model) as engine:
            session = LiveSession(engine, recognizer.create_stream(), print_nothing)
            pushing = asyncio.ensure_future(session.push(samples, SAMPLE_RATE))
            pushing.add_done_callback(lambda _: session.end())
            return " ".join([result.text async for update in session.updates() for result in update.finals])

    assert asyncio.run(asyncio.wait_for(run(), PATIENCE)) == " ".join("abcd" * 20)


def test_updates_without_a_reader_keep_the_audio_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_session, "MAX_UPDATES", 4)
    recognizer = Recognizer(make_model(), DecodingOptions(endpoint=EVERY_FRAME))

    async def run() -> tuple[int, int]:
        with Engine(recognizer.model, SMALL) as engine:
            session = LiveSession(engine, recognizer.create_stream(), print_nothing)
            pushing = asyncio.ensure_future(session.push(np.zeros(10 * SAMPLE_RATE, np.float32), SAMPLE_RATE))
            while len(session._updates) < 4:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)
            waiting = len(session._updates)
            assert not pushing.done()
            pushing.add_done_callback(lambda _: session.end())
            return waiting, sum([len(update.finals) async for update in session.updates()])

    waiting, finals = asyncio.run(run())
    assert waiting <= 4 + 5, "at most the updates of the earlier 1.5 s of audio"
    assert finals >= 250


def test_closing_ends_a_push_that_waits() -> None:
    model = Held()
    recognizer = Recognizer(make_model(model))

    async def run() -> None:
        with Engine(recognizer.model, SMALL) as engine:
            model.released.clear()
            session = LiveSession(engine, recognizer.create_stream(), print_nothing)
            pushing = asyncio.ensure_future(session.push(np.zeros(5 * SAMPLE_RATE, np.float32), SAMPLE_RATE))
            await asyncio.sleep(0.1)
            assert not pushing.done()
            session.close()
            await asyncio.wait_for(pushing, PATIENCE / 4)
            model.released.set()

    asyncio.run(run())


def test_only_partial_results_are_replaced() -> None:
    recognizer, dropped = Recognizer(make_model()), []

    async def run() -> list[Update]:
        with Engine(recognizer.model) as engine:
            session = LiveSession(engine, recognizer.create_stream(), lambda: dropped.append(1))
            stream = recognizer.create_stream()
            (final,) = stream.accept_waveform(speak("a")) + stream.finish()
            for update in (
                Update((final,), final),
                Update((), final),
                Update((), final),
                Update((final,)),
                Update((), final),
            ):
                session._take(update)
            session._take(Update((final,), is_last=True))
            return [update async for update in session.updates()]

    found = asyncio.run(run())
    assert [(len(update.finals), update.is_last) for update in found] == [(1, False), (1, False), (1, True)]
    assert len(dropped) == 3
