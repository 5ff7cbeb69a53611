"""The process that decodes uploads. It imports the decoders once and forks a child process for each upload.

A crash, a hang or a lack of memory ends one upload only. The process has one thread, so forking it is safe.
`Decoders` starts it with a socket as its standard input and sends a request per upload; the child process answers with
frames. A child computes a frame only when it receives a byte, so `Decoders` controls how many compute at once.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import select
import signal
import socket
import struct
import traceback
from enum import IntEnum
from pathlib import Path

import numpy as np

from wenet_fusion_runtime.audio.reader import AudioReader

REQUEST = struct.Struct("<i")  # channel; sent with two descriptors: the connection for the frames, and the file
ANY_CHANNEL = -1  # stands for AudioReader(..., channel=None)
FRAME = struct.Struct("<BI")  # header of a frame: its kind, and the size of its content in bytes
RATE = struct.Struct("<I")
GO = b"+"  # lets the child process of an upload compute its next frame
NAME = "upload"  # name of the file in messages
MEMORY_BYTES = 256 * 1024 * 1024  # memory for one upload, in addition to the imports
BLOCK_SAMPLES = 1 << 16  # samples per channel and frame, whatever sample rate the file states
NICENESS = 10  # lower priority than live sessions


class Kind(IntEnum):
    """Kinds of frames."""

    STARTED = 0  # the child process of this upload runs
    OPENED = 1  # content: the sample rate
    BLOCK = 2  # content: float32 samples, mono
    END = 3  # the file is decoded to its end
    BAD_AUDIO = 4  # content: what is wrong with the file
    MEMORY = 5  # the file needs more memory than it may have
    FAULT = 6  # content: why the process ended


def main() -> None:
    """Serve requests from standard input until the server closes it or ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the server drains first, then ends this process
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICENESS)
    _import_extras()
    _limit_memory()
    gc.freeze()
    serve(socket.socket(fileno=0))


def serve(requests: socket.socket) -> None:
    """Start a process for each request, and kill it when the other end of its connection is closed.

    If a process ends with an error, its connection gets the reason as a last frame.
    """
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)  # SIGCHLD wakes the `poll` below
    jobs: dict[int, socket.socket] = {}  # connections by process
    poll = select.poll()
    poll.register(requests, select.POLLIN)
    poll.register(woken, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poll.poll()}
        for process, connection in jobs.items():
            if connection.fileno() in ready:
                os.kill(process, signal.SIGKILL)  # not reaped yet, so no other process has its number
                poll.unregister(connection)
        if woken in ready:
            os.read(woken, 4096)
            for process, code in _ended():
                connection = jobs.pop(process)
                with contextlib.suppress(KeyError):  # killed above
                    poll.unregister(connection)
                if code:
                    _send_fault(connection, code)
                connection.close()
        if requests.fileno() in ready:
            data, descriptors, _, _ = socket.recv_fds(requests, REQUEST.size, 2)
            if not data:
                for process in jobs:
                    os.kill(process, signal.SIGKILL)
                return
            connection, file = socket.socket(fileno=descriptors[0]), descriptors[1]
            (channel,) = REQUEST.unpack(data)
            if process := _start(connection, file, channel, [requests, *jobs.values()]):
                jobs[process] = connection
                poll.register(connection, 0)  # reports only that the other end is closed
            os.close(file)


def decode(connection: socket.socket, source: str, channel: int | None) -> None:
    """Send the audio of a file as frames; see `AudioReader` for `channel`."""
    try:
        _send(connection, Kind.STARTED)
        _send_audio(connection, source, channel)
        _send(connection, Kind.END)
    except ConnectionError:  # the server has hung up
        pass
    except (ValueError, OSError, ImportError) as error:
        _send(connection, Kind.BAD_AUDIO, str(error).encode("utf-8", "replace"))
    except MemoryError:
        _send(connection, Kind.MEMORY)
    except Exception:
        _send(connection, Kind.FAULT, traceback.format_exc().encode("utf-8", "replace"))


def _send_audio(connection: socket.socket, source: str, channel: int | None) -> None:
    _wait_for_turn(connection)
    with AudioReader(source, NAME, channel) as reader:
        _send(connection, Kind.OPENED, RATE.pack(reader.sample_rate))
        blocks = reader.blocks(BLOCK_SAMPLES / reader.sample_rate)
        while True:
            _wait_for_turn(connection)
            if (block := next(blocks, None)) is None:
                return
            _send(connection, Kind.BLOCK, np.asarray(block, dtype="<f4").tobytes())


def _wait_for_turn(connection: socket.socket) -> None:
    if not connection.recv(len(GO)):
        raise ConnectionResetError("the server has hung up")


def _start(connection: socket.socket, file: int, channel: int, others: list[socket.socket]) -> int:
    """Fork a process that decodes the file and return its id; 0 if that is impossible."""
    try:
        process = os.fork()
    except OSError as error:
        _send(connection, Kind.FAULT, f"no process can be started: {error}".encode())
        connection.close()
        return 0
    if process:
        return process
    try:
        signal.set_wakeup_fd(-1)
        for other in others:
            other.close()
        silence = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):  # decoders print warnings
            os.dup2(silence, stream)
        decode(connection, f"/dev/fd/{file}", None if channel == ANY_CHANNEL else channel)
    finally:
        os._exit(0)  # skip the exit handlers of the parent process


def _ended() -> list[tuple[int, int]]:
    """Return id and exit code of each process that has ended; codes are negative for signals."""
    found: list[tuple[int, int]] = []
    while True:
        try:
            process, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            process = 0
        if not process:
            return found
        found.append((process, os.waitstatus_to_exitcode(status)))


def _send(connection: socket.socket, kind: Kind, content: bytes = b"") -> None:
    connection.sendall(FRAME.pack(kind, len(content)))
    connection.sendall(content)


def _send_fault(connection: socket.socket, code: int) -> None:
    """Send the reason why a process ended, unless the buffer is full; the server sees the end in any case."""
    reason = (signal.Signals(-code).name if code < 0 else f"exit status {code}").encode()
    with contextlib.suppress(OSError):
        connection.send(FRAME.pack(Kind.FAULT, len(reason)) + reason, socket.MSG_DONTWAIT)


def _import_extras() -> None:
    """Import PyAV if it is installed, once for all uploads."""
    with contextlib.suppress(ImportError, OSError):
        import av  # noqa: F401


def _limit_memory() -> None:
    """Limit the memory of this process and its children, if the system supports that (Linux)."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    status = Path("/proc/self/status")
    found = re.search(r"^VmData:\s+(\d+) kB", status.read_text(), re.MULTILINE) if status.exists() else None
    if found is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = int(found[1]) * 1024 + MEMORY_BYTES
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
