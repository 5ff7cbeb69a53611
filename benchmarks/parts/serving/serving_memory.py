"""Measure the resident memory of an engine during many sequential sessions, or one long one, in a process of its own.

    python serving_memory.py sequence|long MODEL RECORDINGS.npz SESSIONS|SECONDS

RECORDINGS.npz holds int16 arrays at the model's sample rate. The program prints the fields of `Memory` as JSON.
"""

import itertools
import json
import sys
import threading
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import psutil
from tqdm import tqdm
from wenet_fusion_runtime import Engine, Recognizer, Update

PATIENCE = 120.0  # timeout in seconds


class Memory(NamedTuple):
    before: int  # resident bytes after a tenth of the work
    after: int  # resident bytes at the end
    largest: int  # most resident bytes since `before`

    @property
    def growth(self) -> float:
        return self.largest / self.before


def _resident() -> int:
    return psutil.Process().memory_info().rss


class SessionFeeder:
    """Feeds a session: waits for room, then pushes the next second of audio."""

    def __init__(self, engine: Engine, recognizer: Recognizer) -> None:
        self._changed, self._over = threading.Event(), threading.Event()
        self._rate = recognizer.model.meta.sample_rate
        self._error: Exception | None = None
        self.session = engine.open(recognizer.create_stream(), self._take)

    def _take(self, update: Update) -> None:
        self._changed.set()
        if update.is_last:
            self._error = update.error
            self._over.set()

    def push(self, samples: np.ndarray) -> None:
        for start in range(0, len(samples), self._rate):
            piece = samples[start : start + self._rate]
            while self.session.room_seconds < 1.0:
                self._changed.clear()
                if self.session.room_seconds < 1.0 and not self._changed.wait(PATIENCE):
                    raise ValueError(f"no update came for {PATIENCE:g} s")
            self.session.push(piece)

    def finish(self) -> None:
        self.session.end()
        if not self._over.wait(PATIENCE) or self._error:
            raise ValueError(f"a session did not end well: {self._error}")


def sessions_in_sequence(recognizer: Recognizer, recordings: Iterator[np.ndarray], count: int) -> Memory:
    """Run `count` sessions, and close every tenth in the middle. Measure memory after the first tenth of them."""
    sizes = []
    with Engine(recognizer.model) as engine:
        for number in tqdm(range(count), desc="sessions in sequence", leave=False, disable=None):
            samples, feeder = next(recordings), SessionFeeder(engine, recognizer)
            if number % 10 == 9:
                feeder.push(samples[: len(samples) // 2])
                feeder.session.close()
            else:
                feeder.push(samples)
                feeder.finish()
            if number >= count // 10 - 1:
                sizes.append(_resident())
        if left := engine.drain(PATIENCE):
            raise ValueError(f"{left} sessions were left")
    return Memory(sizes[0], sizes[-1], max(sizes))


def one_long_stream(recognizer: Recognizer, recordings: Iterator[np.ndarray], seconds: float) -> Memory:
    """Run one session of `seconds`. Measure memory after the first tenth of the audio."""
    sizes, done = [], 0.0
    with (
        Engine(recognizer.model) as engine,
        tqdm(total=round(seconds), desc="one long stream", unit="s", leave=False, disable=None) as bar,
    ):
        feeder = SessionFeeder(engine, recognizer)
        while done < seconds:
            samples = next(recordings)
            feeder.push(samples)
            done += len(samples) / recognizer.model.meta.sample_rate
            bar.update(round(done) - bar.n)
            if done > seconds / 10:
                sizes.append(_resident())
        feeder.finish()
    return Memory(sizes[0], sizes[-1], max(sizes))


def main(task: str, model: str, path: str, amount: str) -> None:
    with np.load(path) as arrays:
        recordings = [arrays[str(index)] for index in range(len(arrays))]
    recognizer, endless = Recognizer(model), itertools.cycle(recordings)
    if task == "sequence":
        found = sessions_in_sequence(recognizer, endless, int(amount))
    else:
        found = one_long_stream(recognizer, endless, float(amount))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
