"""Run sessions in real time: the real server in one process, all clients in another."""

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
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
MOST_REQUESTS = 32  # requests that reach every one of a few processes almost surely
_ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


class RealTime(NamedTuple):
    """The measurements of clients and server."""

    found: ClientMeasurements
    streams_per_step: float  # mean
    cores: float  # mean number of cores that the server used
    client_cores: float  # mean number of cores that the clients used


class ServerSetup(NamedTuple):
    """How the server runs."""

    options: EngineOptions  # of each process's engine
    processes: int = 1  # number of processes, which share a port


class Server:
    """Runs `wenet-fusion-runtime serve MODEL` on a free port, until the end of a `with` block.

    Args:
        model: the exported file.
        sessions: number of sessions that each process must accept.
        setup: how the server runs.
        backend: runs the model.
    Raises:
        ValueError: the server did not start; the message has the end of its output.
    """

    def __init__(self, model: Path, sessions: int, setup: ServerSetup, backend: str = AUTO) -> None:
        options = setup.options
        flags = {
            "workers": options.workers, "max_batch": options.max_batch, "max_sessions": sessions + 8,
            "max_wait_seconds": options.max_wait_seconds, "log_level": "warning", "backend": backend,
        }  # fmt: skip
        command = [sys.executable, "-m", "wenet_fusion_runtime.cli", "serve", str(model)]
        command += [str(word) for flag, value in flags.items() for word in (f"--{flag}", value)]
        command += ["--reuse_port"] if setup.processes > 1 else []
        self._processes: list[subprocess.Popen[str]] = []
        self._readers: list[threading.Thread] = []
        self._log: list[str] = []
        self.url = self._start([*command, "--port", "0"])
        port = str(urllib.parse.urlsplit(self.url).port)
        for _ in range(setup.processes - 1):
            self._start([*command, "--port", port])

    def _start(self, command: list[str]) -> str:
        """Start a process and return its address, once it listens."""
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_ENVIRONMENT)
        self._processes.append(process)
        self._readers.append(threading.Thread(target=lambda: self._log.extend(process.stderr), daemon=True))
        self._readers[-1].start()
        found = re.fullmatch(r"listening on (http://\S+)\n", process.stdout.readline())
        if found is None:
            self.__exit__()
            raise ValueError(f"the server did not start: {''.join(self._log[-5:])}")
        return found[1]

    @property
    def processor_seconds(self) -> float:
        times = [psutil.Process(process.pid).cpu_times() for process in self._processes]
        return sum(each.user + each.system for each in times)

    def streams_per_step(self) -> float:
        """Return the mean number of streams in a step, after all sessions have ended."""
        # Each request reaches any of the processes. Their numbers no longer change, so they tell the processes apart.
        found = {self._batches() for _ in range(1 if len(self._processes) == 1 else MOST_REQUESTS)}
        steps = sum(count for count, _ in found)
        return sum(streams for _, streams in found) / steps if steps else 0.0

    def _batches(self) -> tuple[float, float]:
        """Return the numbers of steps of one process, and of streams in them."""
        with urllib.request.urlopen(f"{self.url}metrics", timeout=PATIENCE) as answer:
            text = answer.read().decode()
        steps, streams = (
            float(re.search(rf"^wenet_fusion_batch_size_{name} (\S+)$", text, re.MULTILINE)[1])
            for name in ("count", "sum")
        )
        return steps, streams

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        for reader in self._readers:
            reader.join()


def real_time(served: ServedModel, sessions: int, seconds: float, setup: ServerSetup, seed: int) -> RealTime:
    """Serve simultaneous clients for `seconds`; each sends recordings one after the other in real time."""
    meta, recordings, chunk = served.recognizer.model.meta, served.recordings, served.chunk
    longest = max(map(len, recordings)) / meta.sample_rate
    with tempfile.TemporaryDirectory() as folder, Server(served.path, sessions, setup, served.backend) as server:
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
