"""Measure throughput, memory and start times for the serving benchmark."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from parts.serving.serving_memory import Memory
from wenet_fusion_runtime import Engine, EngineOptions, Recognizer

PATIENCE = 600.0  # timeout in seconds


# ---- throughput


class Throughput(NamedTuple):
    """Seconds of audio decoded per second of one core."""

    alone: float  # streams one after the other, without an engine
    unbatched: float  # an engine that steps one stream at a time
    batched: float  # an engine that steps batches


def throughput(
    recognizer: Recognizer,
    chunk: int,
    recordings: Sequence[np.ndarray],
    max_batch: int,
    rounds: int,
    tick: Callable[[], object],
) -> Throughput:
    """Measure the three ways of decoding in `Throughput` by turns, each with all recordings; return medians."""
    rate = recognizer.model.meta.sample_rate
    seconds = sum(map(len, recordings)) / rate

    def alone() -> float:
        size, start = chunk * recognizer.model.meta.frame_samples, time.process_time()
        for samples in recordings:
            stream = recognizer.create_stream(chunk)
            for begin in range(0, len(samples), size):
                stream.accept_waveform(samples[begin : begin + size])
                _ = stream.result  # include the cost of partial results
            stream.finish()
        return time.process_time() - start

    def engine(batch: int) -> float:
        limit = max(map(len, recordings)) / rate + 1
        with Engine(recognizer.model, EngineOptions(max_batch=batch, max_waiting_seconds=limit)) as made:
            start = time.process_time()
            sessions = [made.open(recognizer.create_stream(chunk), lambda _: None) for _ in recordings]
            for session, samples in zip(sessions, recordings):
                session.push(samples)
                session.end()
            if made.drain(PATIENCE):
                raise ValueError(f"sessions were not done after {PATIENCE:g} s")
            return time.process_time() - start

    calls = [alone, lambda: engine(1), lambda: engine(max_batch)]
    found: list[list[float]] = [[] for _ in calls]
    for number in range(rounds):
        for index in [(number + offset) % len(calls) for offset in range(len(calls))]:
            found[index].append(seconds / calls[index]())
            tick()
    return Throughput(*map(statistics.median, found))


# ---- memory


def memory_of(task: str, model: Path, recordings: Sequence[np.ndarray], amount: float) -> Memory:
    """Measure memory in a new process that does nothing else; see `serving_memory.py`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recordings.npz"
        np.savez(path, **{str(index): samples for index, samples in enumerate(recordings)})
        command = [sys.executable, str(Path(__file__).with_name("serving_memory.py"))]
        command += [task, str(model), str(path), str(amount)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=PATIENCE)
    return Memory(*json.loads(done.stdout))


# ---- starts


class Start(NamedTuple):
    """Times of a new process in seconds."""

    imports: float  # to import the runtime and the package of the backend
    load: float  # to load the model, warm up and start the engine
    first: float  # from the first complete chunk to its update
    median: float  # median over all chunks of the time from a chunk to its update


_START = """
import json, queue, sys, time
began = time.monotonic()
import numpy as np
from wenet_fusion_runtime import Engine, Recognizer, load_model
from wenet_fusion_runtime.model.backends import NATIVE, TORCH, choose_backend
from wenet_fusion_runtime.model.model_file import read_meta
path, audio, backend = sys.argv[1:]
backend = choose_backend(path, read_meta(path), backend)
if backend == TORCH:
    import torch
elif backend == NATIVE:
    import wenet_fusion_kernels
else:
    import onnxruntime
imported = time.monotonic()
recognizer = Recognizer(load_model(path, backend=backend))
delays, updates = [], queue.SimpleQueue()
with Engine(recognizer.model) as engine:
    loaded = time.monotonic()
    session = engine.open(recognizer.create_stream(), updates.put)
    meta = recognizer.model.meta
    size = meta.default_chunk * meta.frame_samples
    samples = np.load(audio)
    for start in range(0, len(samples) - size + 1, size):
        pushed = time.monotonic()
        session.push(samples[start : start + size])
        updates.get(timeout=60)
        delays.append(time.monotonic() - pushed)
    session.close()
print(json.dumps([imported - began, loaded - imported, delays]))
"""


def new_process(model: Path, samples: np.ndarray, times: int, backend: str) -> Start:
    """Start several processes, one after the other; return the medians of their times."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        audio = Path(folder) / "audio.npy"
        np.save(audio, samples)
        for _ in range(times):
            command = [sys.executable, "-c", _START, str(model), str(audio), backend]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=PATIENCE)
            imported, loaded, delays = json.loads(done.stdout)
            found.append(Start(imported, loaded, delays[0], statistics.median(delays)))
    return Start(*(statistics.median(values) for values in zip(*found)))
