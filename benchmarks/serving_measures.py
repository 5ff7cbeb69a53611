"""What the serving benchmark measures: throughput, sessions in real time, memory, starts. Prints and judges nothing."""

import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from serving_clients import Found, Plan
from serving_pipe import PipeServer
from wenet_fusion_runtime import Engine, EngineOptions, EngineStatistics, Recognizer, Session, Update

PATIENCE = 120.0


# ---- throughput


class Throughput(NamedTuple):
    """Seconds of audio decoded in a second of one core."""

    alone: float  # streams one after the other, without an engine
    unbatched: float  # an engine that steps one at a time
    batched: float


def throughput(
    recognizer: Recognizer, chunk: int, recordings: Sequence[np.ndarray], max_batch: int, rounds: int,
    tick: Callable[[], object],
) -> Throughput:
    """By turns, each way the recordings at once; medians."""
    rate = recognizer.model.meta.sample_rate
    seconds = sum(map(len, recordings)) / rate

    def alone() -> None:
        size = chunk * recognizer.model.meta.frame_samples
        for samples in recordings:
            stream = recognizer.create_stream(chunk)
            for start in range(0, len(samples), size):
                stream.accept_waveform(samples[start : start + size])
                stream.result
            stream.finish()

    def engine(batch: int) -> None:
        limit = max(map(len, recordings)) / rate + 1
        with Engine(recognizer.model, EngineOptions(max_batch=batch, max_waiting_seconds=limit)) as made:
            sessions = [made.open(recognizer.create_stream(chunk), lambda _: None) for _ in recordings]
            for session, samples in zip(sessions, recordings):
                session.push(samples)
                session.end()
            if made.drain(PATIENCE):
                raise ValueError(f"sessions were not done after {PATIENCE:g} s")

    calls = [alone, lambda: engine(1), lambda: engine(max_batch)]
    found: list[list[float]] = [[] for _ in calls]
    for number in range(rounds):
        for index in [(number + offset) % len(calls) for offset in range(len(calls))]:
            start = time.process_time()
            calls[index]()
            found[index].append(seconds / (time.process_time() - start))
            tick()
    return Throughput(*map(statistics.median, found))


# ---- sessions in real time


class RealTime(NamedTuple):
    found: Found
    statistics: EngineStatistics
    cores: float  # that the server kept busy
    client_cores: float
    wall_seconds: float


def real_time(
    recognizer: Recognizer, recordings: Sequence[np.ndarray], chunk: int, sessions: int, seconds: float,
    options: EngineOptions, seed: int,
) -> RealTime:
    """Sessions at once, from another process, one recording after the other until the time is over.

    Args:
        recordings: int16 at the model's rate.
    """
    ours, theirs = socket.socketpair()
    meta = recognizer.model.meta
    longest = max(map(len, recordings)) / meta.sample_rate
    with tempfile.TemporaryDirectory() as folder, Engine(recognizer.model, options) as engine:
        path = Path(folder) / "recordings.npz"
        np.savez(path, **{str(index): samples for index, samples in enumerate(recordings)})
        plan = Plan(
            theirs.fileno(), str(path), meta.sample_rate, chunk, sessions, seconds,
            min(seconds, chunk * meta.frame_seconds), seed,
        )  # fmt: skip
        command = [sys.executable, str(Path(__file__).with_name("serving_clients.py"))]
        server, start, used = PipeServer(engine, recognizer, ours), time.monotonic(), time.process_time()
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[theirs.fileno()], text=True
        ) as process:
            theirs.close()
            try:
                out, _ = process.communicate(json.dumps(asdict(plan)), timeout=seconds + longest + PATIENCE)
            finally:
                process.kill()
        if process.returncode:
            raise ValueError(f"the clients failed with status {process.returncode}")
        server.wait(PATIENCE)
        ours.close()
        wall, used = time.monotonic() - start, time.process_time() - used
        found = Found(**json.loads(out))
        return RealTime(found, engine.statistics, used / wall, found.processor_seconds / wall, wall)


def wrong_texts(found: Found, expected: Sequence[str]) -> int:
    """Sessions whose text is not the one that is expected of their recording."""
    return sum(text != expected[index] for index, text in found.texts)


# ---- memory


class Memory(NamedTuple):
    before: int  # resident bytes at first
    after: int  # at the end
    largest: int  # since then

    @property
    def growth(self) -> float:
        return self.largest / self.before


def _resident() -> int:
    return psutil.Process().memory_info().rss


class Turn:
    """Feeds one session as fast as there is room."""

    def __init__(self, engine: Engine, recognizer: Recognizer) -> None:
        self._changed, self._over = threading.Event(), threading.Event()
        self.error: Exception | None = None
        self.session: Session = engine.open(recognizer.create_stream(), self._take)

    def _take(self, update: Update) -> None:
        self._changed.set()
        if update.is_last:
            self.error = update.error
            self._over.set()

    def push(self, samples: np.ndarray, seconds: float) -> None:
        while self.session.room_seconds < seconds:
            self._changed.clear()
            if self.session.room_seconds < seconds and not self._changed.wait(PATIENCE):
                raise ValueError(f"no update came for {PATIENCE:g} s")
        self.session.push(samples)

    def finish(self) -> None:
        self.session.end()
        if not self._over.wait(PATIENCE) or self.error:
            raise ValueError(f"a session did not end well: {self.error}")


def sessions_in_sequence(
    recognizer: Recognizer, recordings: Iterator[np.ndarray], count: int, tick: Callable[[], object]
) -> Memory:
    """`count` sessions, every tenth cut off in the middle; memory counts from the tenth part of them on."""
    sizes, rate = [], recognizer.model.meta.sample_rate
    with Engine(recognizer.model) as engine:
        for number in range(count):
            samples, turn = next(recordings), Turn(engine, recognizer)
            is_cut = number % 10 == 9
            turn.push(samples[: len(samples) // 2] if is_cut else samples, len(samples) / rate)
            turn.session.close() if is_cut else turn.finish()
            if number >= count // 10 - 1:
                sizes.append(_resident())
            tick()
        left = engine.drain(PATIENCE)
        if left:
            raise ValueError(f"{left} sessions were left")
    return Memory(sizes[0], sizes[-1], max(sizes))


def one_long_stream(
    recognizer: Recognizer, recordings: Iterator[np.ndarray], seconds: float, tick: Callable[[float], object]
) -> Memory:
    """A session of so many seconds; memory counts from the tenth part of them on."""
    sizes, done, rate = [], 0.0, recognizer.model.meta.sample_rate
    with Engine(recognizer.model) as engine:
        turn = Turn(engine, recognizer)
        while done < seconds:
            samples = next(recordings)
            turn.push(samples, len(samples) / rate)
            done += len(samples) / rate
            tick(len(samples) / rate)
            if done > seconds / 10:
                sizes.append(_resident())
        turn.finish()
    return Memory(sizes[0], sizes[-1], max(sizes))


# ---- starts


class Start(NamedTuple):
    """Of a new process."""

    import_seconds: float  # of the runtime and what runs the model
    load_seconds: float  # model, warm-up and engine
    first: float  # seconds from a complete chunk to its update, the first one
    median: float  # the same of all chunks


_START = """
import json, queue, sys, time
began = time.monotonic()
import numpy as np
from wenet_fusion_runtime import Engine, Recognizer
from wenet_fusion_runtime.meta import TORCHSCRIPT
from wenet_fusion_runtime.model_file import read_meta
if read_meta(sys.argv[1]).kind == TORCHSCRIPT:
    import torch
else:
    import onnxruntime
imported = time.monotonic()
recognizer = Recognizer(sys.argv[1])
delays, updates = [], queue.SimpleQueue()
with Engine(recognizer.model) as engine:
    loaded = time.monotonic()
    session = engine.open(recognizer.create_stream(), updates.put)
    meta = recognizer.model.meta
    size = meta.default_chunk * meta.frame_samples
    samples = np.load(sys.argv[2])
    for start in range(0, len(samples) - size + 1, size):
        pushed = time.monotonic()
        session.push(samples[start : start + size])
        updates.get(timeout=60)
        delays.append(time.monotonic() - pushed)
    session.close()
print(json.dumps([imported - began, loaded - imported, delays]))
"""


def new_process(model: Path, samples: np.ndarray, times: int) -> Start:
    """Medians of several processes, one after the other."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        audio = Path(folder) / "audio.npy"
        np.save(audio, samples)
        for _ in range(times):
            command = [sys.executable, "-c", _START, str(model), str(audio)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=PATIENCE)
            imported, loaded, delays = json.loads(done.stdout)
            found.append(Start(imported, loaded, delays[0], statistics.median(delays)))
    return Start(*(statistics.median(values) for values in zip(*found)))
