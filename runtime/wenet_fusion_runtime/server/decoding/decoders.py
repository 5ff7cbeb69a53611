"""Decode uploads outside the server's process, so that the failure of a decoder ends one upload only."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from typing import BinaryIO

import numpy as np

from wenet_fusion_runtime.console import visible
from wenet_fusion_runtime.server.decoding.decoder_process import (
    ANY_CHANNEL,
    FRAME,
    GO,
    MEMORY_BYTES,
    NAME,
    RATE,
    REQUEST,
    Kind,
)
from wenet_fusion_runtime.server.decoding.turns import Turns, cores
from wenet_fusion_runtime.server.guard.deadline import within

# The process imports with the server's `sys.path`, and not from the current folder, which `python -c` would add.
START = (
    "import sys; sys.path[:] = sys.argv[1:]; "
    "from wenet_fusion_runtime.server.decoding.decoder_process import main; main()"
)
START_SECONDS, END_SECONDS = 60.0, 5.0  # time for the process to start, and to end
MAX_DETAILS = 500  # characters of a log line
_MAX_CONTENT = 1 << 24  # most bytes of a frame
_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class DecoderFault(Exception):
    """The decoder crashed, hung, or ran out of memory. The text of the exception is for the client.

    Args:
        problem: the failure, as a sentence about the decoder.
        details: text for the log, on one line.

    >>> str(DecoderFault("the decoder crashed", "SIGSEGV"))
    'upload: the decoder crashed; convert the file to wav or flac'
    """

    def __init__(self, problem: str, details: str = "") -> None:
        super().__init__(f"{NAME}: {problem}; convert the file to wav or flac")
        self.details = visible(" ".join(details.split())[-MAX_DETAILS:])


class DecodersBusy(Exception):
    """All decoders were busy with other uploads for too long. The text of the exception is for the client."""


class Decoding:
    """The audio of one upload, decoded block by block as it is read.

    Args:
        reader: receives frames from the process that decodes the file.
        writer: the same connection; closing it ends that process.
        seconds: longest time without a frame, and longest wait for a turn.
        turns: give permission to compute a frame.

    >>> async def count(decoders: Decoders, file: BinaryIO) -> float:
    ...     decoding, samples = await decoders.open(file), 0
    ...     while (block := await decoding.block()) is not None:
    ...         samples += len(block)
    ...     return samples / decoding.sample_rate
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float, turns: Turns
    ) -> None:
        self._reader, self._writer, self._seconds, self._turns = reader, writer, seconds, turns
        self.sample_rate = 0  # Hz; set by `begin`

    async def begin(self) -> None:
        """Wait until the file is open.

        Raises:
            ValueError, DecoderFault, DecodersBusy: see `block`.
            OSError: the process cannot be started. ConnectionError: the process has ended; try again with another one.
        """
        problem = "the process that decodes uploads does not start; its output may say why"
        try:
            await within(self._read(), START_SECONDS)
        except (asyncio.IncompleteReadError, ConnectionError):
            raise ConnectionAbortedError(problem) from None
        except asyncio.TimeoutError:
            raise OSError(problem) from None
        kind, content = await self._frame()
        if kind != Kind.OPENED or len(content) != RATE.size:
            raise DecoderFault("the decoder failed", f"a frame of kind {kind} came first")
        (self.sample_rate,) = RATE.unpack(content)

    async def block(self) -> np.ndarray | None:
        """Return the next samples (n,), float32 mono; None at the end.

        Raises:
            ValueError: the file cannot be read as audio, or is damaged.
            DecoderFault: the decoder failed.
            DecodersBusy: other uploads kept the decoders busy for too long.
        """
        kind, content = await self._frame()
        if kind == Kind.END:
            return None
        if kind != Kind.BLOCK or len(content) % 4:
            raise DecoderFault("the decoder failed", f"a frame of kind {kind} came within the audio")
        return np.frombuffer(content, dtype="<f4")

    def close(self) -> None:
        """End the process that decodes the file."""
        self._writer.transport.abort()

    async def _frame(self) -> tuple[int, bytes]:
        """Let the process compute its next frame. The time limit counts from the beginning of the turn."""
        try:
            turn = await self._turns.take(self._seconds)
        except asyncio.TimeoutError:
            raise DecodersBusy(
                f"{NAME}: the decoders were busy with other uploads for {self._seconds:g} s; try again later"
            ) from None
        try:
            self._writer.write(GO)
            return await self._computed()
        finally:
            turn.end()

    async def _computed(self) -> tuple[int, bytes]:
        try:
            kind, content = await within(self._read(), self._seconds)
        except asyncio.TimeoutError:
            raise DecoderFault(f"the decoder made no progress for {self._seconds:g} s") from None
        except (asyncio.IncompleteReadError, ConnectionError):
            raise DecoderFault("the decoder ended early", "its connection was closed") from None
        if kind == Kind.BAD_AUDIO:
            raise ValueError(content.decode("utf-8", "replace"))
        if kind == Kind.MEMORY:
            raise DecoderFault(f"decoding needs more than {MEMORY_BYTES >> 20} MiB of memory")
        if kind == Kind.FAULT:
            raise DecoderFault("the decoder crashed", content.decode("utf-8", "replace"))
        return kind, content

    async def _read(self) -> tuple[int, bytes]:
        kind, size = FRAME.unpack(await self._reader.readexactly(FRAME.size))
        if size > _MAX_CONTENT:
            raise DecoderFault("the decoder failed", f"a frame states {size} bytes")
        return kind, await self._reader.readexactly(size)


class Decoders:
    """Decodes uploads, each in its own process, which is forked from a process that has imported the decoders.

    Args:
        seconds: longest time in which a decoder may deliver nothing.
        at_once: number of decoders that compute at the same time; None: one per core.

    >>> decoders = Decoders(seconds=60.0)
    >>> asyncio.run(decoders.close())  # no upload came
    """

    def __init__(self, seconds: float, at_once: int | None = None) -> None:
        self._seconds, self._turns = seconds, Turns(at_once or cores())
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None

    def start(self) -> None:
        """Start the process from which decoders are forked, without waiting until it is ready.

        Raises:
            OSError: the process cannot be started.
        """
        if not hasattr(os, "fork"):
            raise OSError("uploads need a system with fork, such as Linux; stream the audio over a WebSocket")
        if self._requests is not None:
            self._requests.close()
        self._requests, theirs = socket.socketpair()
        self._requests.setblocking(False)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("WENET_FUSION_")}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", START, *map(str, sys.path)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=environment | _THREADS,
            )

    async def open(self, file: BinaryIO, channel: int | None = None) -> Decoding:
        """Begin to decode a file. The caller must close the returned object, and may close the file at once.

        Args:
            file: open file with a descriptor.
            channel: see `AudioReader`.
        Raises:
            ValueError: the file cannot be read as audio.
            DecoderFault: the decoder failed.
            DecodersBusy: other uploads kept the decoders busy for too long.
            OSError: no process can be started.
        """
        try:
            return await self._open(file, channel)
        except ConnectionError:  # the process ended during this request: start another one
            return await self._open(file, channel)

    async def _open(self, file: BinaryIO, channel: int | None) -> Decoding:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._request(theirs, file, ANY_CHANNEL if channel is None else channel)
            reader, writer = await asyncio.open_connection(sock=ours)
        except BaseException:
            ours.close()
            raise
        decoding = Decoding(reader, writer, self._seconds, self._turns)
        try:
            await decoding.begin()
        except BaseException:
            decoding.close()
            raise
        return decoding

    async def close(self) -> None:
        """End all processes."""
        if self._requests is not None:
            self._requests.close()
        if self._process is not None:
            try:
                await asyncio.to_thread(self._process.wait, END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process = self._requests = None

    def _request(self, connection: socket.socket, file: BinaryIO, channel: int) -> None:
        """Send a request to the process, which is started if it does not run."""
        request, descriptors = REQUEST.pack(channel), [connection.fileno(), file.fileno()]
        if self._requests is not None and self._process is not None:
            try:
                socket.send_fds(self._requests, [request], descriptors)
                return
            except OSError:  # the process has ended, or does not read requests
                self._process.kill()
        self.start()
        assert self._requests is not None
        socket.send_fds(self._requests, [request], descriptors)
