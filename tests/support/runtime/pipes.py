"""Pipes whose readers are threads of the runtime."""

import contextlib
import os
import threading
from pathlib import Path


def wait_for_reader() -> None:
    """Wait until no thread reads from a pipe: a closed descriptor's number may be reused by another test."""
    for thread in threading.enumerate():
        if thread.name == "pipe":
            thread.join(5)
            assert not thread.is_alive()


def through_pipe(path: Path, content: bytes) -> Path:
    """A named pipe into which a thread writes."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)

    def write() -> None:
        with contextlib.suppress(BrokenPipeError), path.open("wb") as pipe:
            pipe.write(content)

    threading.Thread(target=write, daemon=True).start()
    return path
