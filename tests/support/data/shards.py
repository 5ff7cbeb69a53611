"""Shards for tests: tars of tones, a server for them, and ranks that run in threads."""

from __future__ import annotations

import contextlib
import http.server
import io
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import soundfile
from support.model.tones import HERTZ, RATE, speak

from wenet_fusion.ranks import Ranks

T = TypeVar("T")


def wav(samples: np.ndarray, rate: int = RATE) -> bytes:
    """The bytes of a wav file."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def tar(members: Sequence[tuple[str, bytes]], mode: str = "w") -> bytes:
    """The bytes of a tar."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return file.getvalue()


def utterance_members(key: str, seed: int, longest: int = 4) -> list[tuple[str, bytes]]:
    """The members key.txt and key.wav of an utterance of some tones."""
    rng = np.random.default_rng(seed)
    words = rng.choice(list(HERTZ), rng.integers(1, longest + 1)).tolist()
    return [(f"{key}.txt", " ".join(words).encode()), (f"{key}.wav", wav(speak(words, rng)))]


def write_shards(folder: Path, sizes: Sequence[int]) -> Path:
    """Write a tar with n utterances for each n of `sizes`, and the list of tars; return the list."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, size in enumerate(sizes):
        pairs = [utterance_members(f"s{number}-u{index:02d}", 100 * number + index) for index in range(size)]
        (folder / f"shard_{number}.tar").write_bytes(tar([member for pair in pairs for member in pair]))
    (folder / "shards.list").write_text("".join(f"shard_{number}.tar\n" for number in range(len(sizes))))
    return folder / "shards.list"


@contextlib.contextmanager
def served(folder: Path, flaw: Callable[[str, int], str] = lambda name, count: "") -> Iterator[str]:
    """Serve a folder over HTTP and yield its URL.

    Args:
        folder: its files are served.
        flaw: the fault of the n-th request (from 1) of a file: "" (none), "busy" (503) or "cut" in the middle.
    """
    counts: dict[str, int] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            counts[name] = counts.get(name, 0) + 1
            problem = flaw(name, counts[name])
            if problem == "busy" or not (folder / name).is_file():
                return self.send_error(503 if problem == "busy" else 404)
            data = (folder / name).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if problem == "cut" else data)
            return None

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class _Meeting:
    def __init__(self, world: int) -> None:
        self.barrier, self.values = threading.Barrier(world, timeout=60), [None] * world


class ThreadRanks(Ranks):
    """A rank that runs in a thread."""

    def all(self, value: T) -> list[T]:
        meeting = _MEETINGS[threading.current_thread().name.partition("/")[0]]
        meeting.values[self.rank] = value  # type: ignore[call-overload]
        meeting.barrier.wait()
        values: Any = list(meeting.values)
        meeting.barrier.wait()
        return values


_MEETINGS: dict[str, _Meeting] = {}


def in_ranks(world: int, work: Callable[[Ranks], T]) -> list[T]:
    """Call `work` as each rank in a thread, and return what each returned."""
    name = f"ranks-{len(_MEETINGS)}"
    _MEETINGS[name] = meeting = _Meeting(world)
    results: list[Any] = [None] * world
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            results[rank] = work(ThreadRanks(rank, world))
        except BaseException as error:
            meeting.barrier.abort()
            errors.append(error)

    threads = [threading.Thread(target=run, args=(rank,), name=f"{name}/{rank}") for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return results
