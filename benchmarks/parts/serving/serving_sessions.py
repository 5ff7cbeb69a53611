"""Run sessions in real time: the real server in one process, all clients in another."""

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from parts.serving.served_models import ServedModel
from parts.serving.serving_clients import ClientMeasurements, ClientPlan
from wenet_fusion_runtime import EngineOptions
from wenet_fusion_runtime.model.backends import AUTO

PATIENCE = 60.0  # timeout in seconds, in addition to the duration of the plan
_ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


class RealTime(NamedTuple):
    """The measurements of clients and server."""

    found: ClientMeasurements
    streams_per_step: float  # mean
    cores: float  # mean number of cores that the server used
    client_cores: float  # mean number of cores that the clients used


class Server:
    """Runs `wenet-fusion-runtime serve MODEL` on a free port, until the end of a `with` block.

    Raises:
        ValueError: the server did not start; the message has the end of its output.
    """

    def __init__(self, model: Path, sessions: int, options: EngineOptions, backend: str = AUTO) -> None:
        flags = {
            "port": 0, "workers": options.workers, "max_batch": options.max_batch, "max_sessions": sessions + 8,
            "max_wait_seconds": options.max_wait_seconds, "log_level": "warning", "backend": backend,
        }  # fmt: skip
        command = [sys.executable, "-m", "wenet_fusion_runtime.cli", "serve", str(model)]
        command += [str(word) for flag, value in flags.items() for word in (f"--{flag}", value)]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_ENVIRONMENT
        )
        self._log: list[str] = []
        self._reader = threading.Thread(target=lambda: self._log.extend(self._process.stderr), daemon=True)
        self._reader.start()
        found = re.fullmatch(r"listening on (http://\S+)\n", self._process.stdout.readline())
        if found is None:
            self.__exit__()
            raise ValueError(f"the server did not start: {''.join(self._log[-5:])}")
        self.url = found[1]

    @property
    def processor_seconds(self) -> float:
        times = psutil.Process(self._process.pid).cpu_times()
        return times.user + times.system

    def streams_per_step(self) -> float:
        with urllib.request.urlopen(f"{self.url}metrics", timeout=PATIENCE) as answer:
            text = answer.read().decode()
        count, total = (
            float(re.search(rf"^wenet_fusion_batch_size_{name} (\S+)$", text, re.MULTILINE)[1])
            for name in ("count", "sum")
        )
        return total / count if count else 0.0

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()


def real_time(served: ServedModel, sessions: int, seconds: float, options: EngineOptions, seed: int) -> RealTime:
    """Serve simultaneous clients for `seconds`; each sends recordings one after the other in real time."""
    meta, recordings, chunk = served.recognizer.model.meta, served.recordings, served.chunk
    longest = max(map(len, recordings)) / meta.sample_rate
    with tempfile.TemporaryDirectory() as folder, Server(served.path, sessions, options, served.backend) as server:
        path = Path(folder) / "recordings.npz"
        np.savez(path, **{str(index): samples for index, samples in enumerate(recordings)})
        spread = min(seconds, chunk * meta.frame_seconds)
        plan = ClientPlan(server.url, str(path), meta.sample_rate, chunk, sessions, seconds, spread, seed)
        start, used = time.monotonic(), server.processor_seconds
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("serving_clients.py"))], input=json.dumps(asdict(plan)),
            stdout=subprocess.PIPE, text=True, timeout=seconds + longest + PATIENCE, check=True, env=_ENVIRONMENT,
        )  # fmt: skip
        wall, used = time.monotonic() - start, server.processor_seconds - used
        found = ClientMeasurements(**json.loads(done.stdout))
        return RealTime(found, server.streams_per_step(), used / wall, found.processor_seconds / wall)
