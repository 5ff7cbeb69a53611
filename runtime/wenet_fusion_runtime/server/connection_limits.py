"""Limits the number of connections, so that clients cannot use up the process's file descriptors."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from weakref import WeakSet

from aiohttp import web

from wenet_fusion_runtime.server.http.responses import RETRY_SECONDS
from wenet_fusion_runtime.server.limits import Limits

ACCEPTED_AT_ONCE = 16  # connections per turn of the event loop
REJECTED_AT_ONCE = 96  # connections that are receiving status 503; further ones are closed without a reply
_OTHER_FILES = 64  # descriptors of the process itself: model, log, event loop
_FILES_PER_UPLOAD = 2  # descriptors besides the connection: the temporary file, then the socket of its decoder


def available_connections(limits: Limits) -> int:
    """Return how many connections the limit of open files (RLIMIT_NOFILE) allows, at most `limits.sockets`.

    Raises RLIMIT_NOFILE as far as the system permits if it is too low.

    Raises:
        OSError: the limit is too low for the sessions.
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
    """A protocol factory for asyncio: aiohttp's protocol, or above the limit one that replies with status 503.

    It counts sockets from accept to close: asyncio reports a connection only after its TLS handshake, and a failed
    handshake never. Without a limit, asyncio retries (and logs) thousands of accepts per second once no descriptor is
    left.

    Args:
        server: aiohttp's server.
        limit: open connections, those in a TLS handshake included.
        on_rejected: called for each connection above the limit.

    >>> async def listen(server: web.Server, bound: socket.socket) -> asyncio.Server:
    ...     limiter = ConnectionLimiter(server, limit=500, on_rejected=print)
    ...     return await asyncio.get_running_loop().create_server(limiter, sock=limiter.listener(bound))
    """

    def __init__(self, server: web.Server, limit: int, on_rejected: Callable[[], object]) -> None:
        self._server, self._limit, self._on_rejected = server, limit, on_rejected
        self._accepted: WeakSet[_CountedSocket] = WeakSet()
        self._rejected: WeakSet[_CountedSocket] = WeakSet()

    def listener(self, bound: socket.socket) -> socket.socket:
        """Return a socket that counts what it accepts; it takes over the descriptor of `bound`."""
        return _CountingListener(bound, self._count)

    def __call__(self) -> asyncio.Protocol:
        return _ProtocolSwitch(self._protocol)

    def _count(self, accepted: socket.socket) -> socket.socket:
        """Count an accepted socket; raise ConnectionAbortedError if even the places for rejected ones are taken."""
        if len(self._accepted) < self._limit:
            return _CountedSocket(accepted, self._accepted)
        self._on_rejected()
        if len(self._rejected) < REJECTED_AT_ONCE:
            return _CountedSocket(accepted, self._rejected)
        accepted.close()
        raise ConnectionAbortedError

    def _protocol(self, transport: asyncio.BaseTransport) -> asyncio.Protocol:
        number = transport.get_extra_info("socket").fileno()
        if any(rejected.fileno() == number for rejected in self._rejected):
            return _RejectingProtocol()
        if len(self._server.connections) >= self._limit:  # on Windows the event loop does not call `accept`
            self._on_rejected()
            return _RejectingProtocol()
        return self._server()


class _CountingListener(socket.socket):
    """A listening socket that passes each accepted socket through `count`."""

    def __init__(self, bound: socket.socket, count: Callable[[socket.socket], socket.socket]) -> None:
        super().__init__(bound.family, bound.type, bound.proto, fileno=bound.detach())
        self._count = count

    def accept(self) -> tuple[socket.socket, object]:
        accepted, address = super().accept()
        return self._count(accepted), address


class _CountedSocket(socket.socket):
    """A connection that is a member of `opened` until it is closed."""

    def __init__(self, accepted: socket.socket, opened: WeakSet[_CountedSocket]) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        self._opened = opened
        opened.add(self)

    def close(self) -> None:
        super().close()
        self._opened.discard(self)


class _ProtocolSwitch(asyncio.Protocol):
    """Chooses the protocol once the connection is made, with TLS after the handshake."""

    def __init__(self, choose: Callable[[asyncio.BaseTransport], asyncio.Protocol]) -> None:
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
