"""A recognizer, an engine, and a client that collects its session's updates."""

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from support.runtime.fake_model import SAMPLE_RATE, make_model
from wenet_fusion_runtime import DecodingOptions, Engine, EngineOptions, Recognizer, Result, Update
from wenet_fusion_runtime.stream.endpoints import EndpointRules

SHORT_SEGMENTS = EndpointRules(rule3_seconds=0.4, rule3_silence_seconds=0.08, rule3_extra_seconds=0.2)
RECOGNIZER = Recognizer(make_model(), DecodingOptions(endpoint=SHORT_SEGMENTS))
PATIENCE = 20.0  # seconds until a test gives up


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
        """Push all samples as fast as there is room, and end the audio."""
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
    """An engine with one worker, and one with two."""
    with Engine(RECOGNIZER.model, EngineOptions(workers=request.param)) as made:
        yield made


def eventually(condition: Callable[[], bool]) -> bool:
    """Wait for a condition; return whether it became true in time."""
    end = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < end:
        time.sleep(0.002)
    return condition()
