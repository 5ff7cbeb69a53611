"""Read from every connection in small slices, within a budget of bytes and a budget of parsing time.

asyncio reads up to 256 KiB of a connection at once, and aiohttp parses all of that in one turn of the event loop: that
may be tens of thousands of empty frames, chunks or requests. Here one turn reads at most SLICE_BYTES of a connection.
A connection that exceeds a budget is read later; meanwhile its data wait in the client's system. While a connection is
not read, asyncio does not notice that the client hangs up, so this module polls the socket.
"""

from __future__ import annotations

import asyncio
import select
import socket
import time
from collections.abc import Callable
from typing import Any, Protocol, cast

from wenet_fusion_runtime.server.guard.budget import Budget
from wenet_fusion_runtime.server.limits import Limits

SLICE_BYTES = 16 * 1024  # read from a connection in one turn of the event loop
PARSING_SHARE = 0.02  # share of the event loop's time for parsing the data of one connection
PARSING_BURST = 0.02  # seconds of parsing that can be saved up
BURST_SECONDS = 2.0  # seconds for which budgets of bytes and frames can be saved up
HANG_UP_SECONDS = 1.0  # interval between two polls of a connection that is not read


class Seat(Protocol):
    """A connection as the connection limits see it."""

    is_busy: bool  # the connection serves a session or an upload
    address: str  # address of the client; replaced if a trusted proxy names another one


class FairProtocol(asyncio.BufferedProtocol):
    """A protocol between a transport and aiohttp's protocol.

    `request.transport.get_extra_info(FairProtocol.NAME)` returns the `FairProtocol` of a request's connection.

    Args:
        protocol: receives the data.
        limits: bytes and frames per second.
        buffer: memory that the event loop writes to; all connections of an event loop may share it.
        seat: the connection for the connection limits; None if they do not apply.

    >>> async def listen(make: Callable[[], asyncio.Protocol]) -> asyncio.Server:
    ...     buffer = bytearray(SLICE_BYTES)
    ...     fair = lambda: FairProtocol(make(), Limits(), buffer)
    ...     return await asyncio.get_running_loop().create_server(fair, "127.0.0.1", 0)
    """

    NAME = "wenet_fusion_fair_protocol"

    def __init__(self, protocol: asyncio.Protocol, limits: Limits, buffer: bytearray, seat: Seat | None = None) -> None:
        self.seat = seat
        self.frames = frame_budget(limits)
        self._protocol, self._buffer = protocol, memoryview(buffer)
        self._loop = asyncio.get_running_loop()
        self._bytes = Budget(limits.bytes_per_second, BURST_SECONDS * limits.bytes_per_second)
        self._parsing = Budget(PARSING_SHARE, PARSING_BURST)
        self._transport: _HeldTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Pass the connection on, with a transport whose reading can be paused."""
        self._transport = _HeldTransport(cast(asyncio.Transport, transport), self, self._loop)
        self._protocol.connection_made(cast(asyncio.Transport, self._transport))

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer for the next slice."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Pass a slice on; pause the connection if it has exceeded a budget."""
        data = bytes(self._buffer[:nbytes])
        self.parse(lambda: self._protocol.data_received(data), nbytes)

    def parse(self, parse: Callable[[], object], nbytes: int = 0) -> None:
        """Call a function that parses data of the client; pause the connection if that exceeds a budget.

        Args:
            parse: the function.
            nbytes: bytes that have arrived for it.
        """
        begun = time.thread_time()
        parse()
        used, now = time.thread_time() - begun, self._loop.time()
        wait = max(self._bytes.spend(nbytes, now), self._parsing.spend(used, now))
        if wait > 0 and self._transport is not None:
            self._transport.hold(wait)

    @property
    def parsing_wait(self) -> float:
        """Seconds until the data of the connection may be parsed again."""
        return self._parsing.spend(0.0, self._loop.time())

    def eof_received(self) -> bool | None:
        """Pass the end of the client's data on."""
        return self._protocol.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass the loss of the connection on."""
        if self._transport is not None:
            self._transport.end()
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        """Tell the protocol that the client does not read."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Tell the protocol that the client reads again."""
        self._protocol.resume_writing()


def frame_budget(limits: Limits) -> Budget:
    """Return the budget for the frames and requests of one connection."""
    return Budget(limits.frames_per_second, BURST_SECONDS * limits.frames_per_second)


def has_hung_up(connection: socket.socket | None) -> bool:
    """Return whether the other end has closed a connection, even if earlier data are unread.

    Without poll(2) the result is always False; macOS reports only reset connections.
    """
    if connection is None or connection.fileno() < 0 or not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(connection, getattr(select, "POLLRDHUP", 0))  # POLLHUP and POLLERR are always reported
    return bool(poll.poll(0))


class _HeldTransport:
    """A transport that reads unless its protocol has paused it or a budget holds it.

    While it does not read, it is aborted if its client hangs up: then nobody is left to receive a result.
    """

    def __init__(self, transport: asyncio.Transport, fair: FairProtocol, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._fair, self._loop = transport, fair, loop
        self._is_paused = False
        self._held: asyncio.TimerHandle | None = None
        self._look: asyncio.TimerHandle | None = None  # the next poll of a connection that is not read

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._fair if name == FairProtocol.NAME else self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self._is_paused = True
        self._transport.pause_reading()
        self._look_later()

    def resume_reading(self) -> None:
        self._is_paused = False
        if self._held is None:
            self._transport.resume_reading()

    def hold(self, seconds: float) -> None:
        if self._held is not None:
            self._held.cancel()
        self._held = self._loop.call_later(seconds, self.release)
        self._transport.pause_reading()
        self._look_later()

    def release(self) -> None:
        if self._held is not None:
            self._held.cancel()
            self._held = None
            if not self._is_paused:
                self._transport.resume_reading()

    def end(self) -> None:
        self.release()
        if self._look is not None:
            self._look.cancel()

    def _look_later(self) -> None:
        if self._look is None:
            self._look = self._loop.call_later(HANG_UP_SECONDS, self._look_at_client)

    def _look_at_client(self) -> None:
        self._look = None
        if not self._is_paused and self._held is None:
            return  # the event loop reads again, and notices the end itself
        if has_hung_up(self._transport.get_extra_info("socket")):
            self._transport.abort()
        else:
            self._look_later()
