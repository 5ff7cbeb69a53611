"""Limit the number of connections, so that clients cannot use up the process's file descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
from collections import Counter
from collections.abc import Callable
from weakref import WeakSet, WeakValueDictionary

from wenet_fusion_runtime.server.guard.addresses import group
from wenet_fusion_runtime.server.guard.fair_protocol import SLICE_BYTES, FairProtocol
from wenet_fusion_runtime.server.http.responses import RETRY_SECONDS
from wenet_fusion_runtime.server.limits import Limits

ACCEPTED_AT_ONCE = 16  # connections per turn of the event loop
REJECTED_AT_ONCE = 96  # connections that are receiving status 503; further ones are closed without a reply
LEFT_AT_ONCE = 64  # connections already closed by their clients that one `accept` skips
_OTHER_FILES = 64  # descriptors of the process itself: model, log, event loop
_FILES_PER_UPLOAD = 2  # descriptors besides the connection: the temporary file and the socket of its decoder


def available_connections(limits: Limits) -> int:
    """Return how many connections the limit of open files (RLIMIT_NOFILE) allows, at most `limits.sockets`.

    If RLIMIT_NOFILE is too low, it is raised as far as the system permits.

    Raises:
        OSError: RLIMIT_NOFILE is too low for the sessions.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return limits.sockets
    files = _FILES_PER_UPLOAD * limits.sessions + REJECTED_AT_ONCE + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.sockets + files
    if soft != resource.RLIM_INFINITY and soft < wanted:
        more = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
            soft = more
        except (ValueError, OSError):  # macOS has a second limit below this one
            pass
    if soft != resource.RLIM_INFINITY and soft - files < limits.connections:
        raise OSError(
            f"{limits.sessions} sessions need {limits.connections + files} open files, and the system allows "
            f"{soft}; raise that limit (ulimit -n), or lower --max_sessions"
        )
    return limits.sockets if soft == resource.RLIM_INFINITY else min(limits.sockets, soft - files)


class ConnectionLimiter:
    """A protocol factory for asyncio. It makes aiohttp's protocol, or, above the limit, a protocol that replies with
    status 503.

    Sockets are counted from accept to close, because asyncio reports a connection only after its TLS handshake, and
    does not report failed handshakes. Without a limit, asyncio would retry (and log) thousands of accepts per second
    once no descriptor is left.

    Waiting connections, which serve neither a session nor an upload, have a lower limit. Above it, a new connection
    replaces a waiting one: the oldest of the address with the most waiting connections. So connections that never send
    a start signal or a token cannot lock out other clients.

    Args:
        make: makes aiohttp's protocol.
        limits: limits of the server.
        limit: most open connections, including those in a TLS handshake.
        on_rejected: called for each connection above the limit, and for each one that is replaced.

    >>> async def listen(make: Callable[[], asyncio.Protocol], bound: socket.socket) -> asyncio.Server:
    ...     limiter = ConnectionLimiter(make, Limits(), limit=500, on_rejected=print)
    ...     return await asyncio.get_running_loop().create_server(limiter, sock=limiter.listener(bound))
    """

    def __init__(
        self, make: Callable[[], asyncio.Protocol], limits: Limits, limit: int, on_rejected: Callable[[], object]
    ) -> None:
        self._make, self._limits, self._limit, self._on_rejected = make, limits, limit, on_rejected
        self._waiting_limit = max(1, limit - 2 * limits.sessions)  # a session and an upload may hold a place each
        self._accepted: WeakSet[_CountedSocket] = WeakSet()
        self._rejected: WeakSet[_CountedSocket] = WeakSet()
        self._places = _Places()
        self._buffer = bytearray(SLICE_BYTES)

    def listener(self, bound: socket.socket) -> socket.socket:
        """Return a socket that counts the connections it accepts; it takes over the descriptor of `bound`."""
        return _CountingListener(bound, self._count)

    def __call__(self) -> asyncio.Protocol:
        return _ProtocolSwitch(self._protocol)

    def _count(self, accepted: socket.socket, address: str) -> socket.socket:
        """Count an accepted socket; raise ConnectionAbortedError if too many rejected ones are still open."""
        waiting = len(self._accepted) - len(self._places.busy)
        if waiting and (waiting >= self._waiting_limit or len(self._accepted) >= self._limit):
            self._make_room()
        if len(self._accepted) < self._limit:
            return _CountedSocket(accepted, self._accepted, self._places, address)
        self._on_rejected()
        if len(self._rejected) < REJECTED_AT_ONCE:
            return _CountedSocket(accepted, self._rejected, self._places, address)
        accepted.close()
        raise ConnectionAbortedError

    def _make_room(self) -> None:
        """Close the oldest waiting connection of the address with the most waiting connections."""
        if len(self._rejected) >= REJECTED_AT_ONCE:
            return  # connections that were replaced earlier are not closed yet
        waiting = [one for one in self._accepted if not one.is_busy]
        counts = Counter(one.address for one in waiting)
        oldest = min(waiting, key=lambda one: (-counts[one.address], one.number))
        self._on_rejected()
        oldest.hang_up(self._rejected)

    def _protocol(self, transport: asyncio.BaseTransport) -> asyncio.BaseProtocol:
        seat = self._places.by_descriptor.get(transport.get_extra_info("socket").fileno())
        if seat in self._rejected:
            return _RejectingProtocol()
        if seat is None:  # on Windows the event loop does not call `accept`
            peer = transport.get_extra_info("peername")
            if len(self._accepted) >= self._limit:
                self._on_rejected()
                return _RejectingProtocol()
            return FairProtocol(self._make(), self._limits, self._buffer, _Uncounted(group(peer[0]) if peer else ""))
        seat.transport = transport
        return FairProtocol(self._make(), self._limits, self._buffer, seat)


class _Places:
    """Tables of the connections of a server."""

    def __init__(self) -> None:
        self.numbers = itertools.count()  # numbers of connections, in the order in which they are accepted
        self.by_descriptor: WeakValueDictionary[int, _CountedSocket] = WeakValueDictionary()
        self.busy: WeakSet[_CountedSocket] = WeakSet()  # connections with a session or an upload


class _CountingListener(socket.socket):
    """A listening socket that returns `count(socket, address group)` for each accepted socket."""

    def __init__(self, bound: socket.socket, count: Callable[[socket.socket, str], socket.socket]) -> None:
        super().__init__(bound.family, bound.type, bound.proto, fileno=bound.detach())
        self._count = count

    def accept(self) -> tuple[socket.socket, tuple[str, int]]:
        for _ in range(LEFT_AT_ONCE):
            accepted, address = super().accept()
            if not _has_left(accepted):
                return self._count(accepted, group(address[0])), address
            accepted.close()
        raise ConnectionAbortedError  # let the event loop serve other connections first


class _CountedSocket(socket.socket):
    """A connection, which is in the set `opened` until it is closed; a `Seat`, see `fair_protocol`."""

    def __init__(self, accepted: socket.socket, opened: WeakSet[_CountedSocket], places: _Places, address: str) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        self.address, self.number = address, next(places.numbers)
        self.transport: asyncio.BaseTransport | None = None  # None: the TLS handshake has not ended
        self._opened, self._places = opened, places
        opened.add(self)
        places.by_descriptor[self.fileno()] = self

    @property
    def is_busy(self) -> bool:
        return self in self._places.busy

    @is_busy.setter
    def is_busy(self, value: bool) -> None:
        (self._places.busy.add if value else self._places.busy.discard)(self)

    def hang_up(self, closing: WeakSet[_CountedSocket]) -> None:
        """End the connection; it is in the set `closing` until it is closed."""
        self._opened.remove(self)
        self._opened = closing
        closing.add(self)
        if isinstance(self.transport, asyncio.WriteTransport):
            self.transport.abort()
        else:
            with contextlib.suppress(OSError):
                self.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._places.by_descriptor.pop(self.fileno(), None)
        self._places.busy.discard(self)
        super().close()
        self._opened.discard(self)


def _has_left(accepted: socket.socket) -> bool:
    """Return whether the client has already closed the connection."""
    try:
        return not accepted.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


class _Uncounted:
    """The seat of a connection whose socket is not counted."""

    def __init__(self, address: str) -> None:
        self.address, self.is_busy = address, False


class _ProtocolSwitch(asyncio.Protocol):
    """Chooses the protocol once the connection is made, with TLS after the handshake."""

    def __init__(self, choose: Callable[[asyncio.BaseTransport], asyncio.BaseProtocol]) -> None:
        self._choose = choose

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        protocol = self._choose(transport)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


class _RejectingProtocol(asyncio.Protocol):
    """Replies with status 503 and closes the connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        body = json.dumps({"status": "failed", "message": "too many connections are open; try again later"}).encode()
        transport.write(
            b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n"
            b"Content-Type: application/json; charset=utf-8\r\n"
            b"Retry-After: %d\r\nContent-Length: %d\r\n\r\n" % (RETRY_SECONDS, len(body)) + body
        )
        transport.close()
