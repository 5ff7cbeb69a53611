"""How many connections a server takes, so that nobody can use up its descriptors. Knows of HTTP one answer only."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from weakref import WeakSet

from aiohttp import web

from wenet_fusion_runtime.server.http.responses import RETRY_SECONDS
from wenet_fusion_runtime.server.limits import Limits

ACCEPTED_AT_ONCE = 16  # in a turn of the event loop
REFUSED_AT_ONCE = 96  # connections that are being told so; more are closed without a word
_OTHER_FILES = 64  # of the process: the model, the log, the event loop
_FILES_OF_UPLOAD = 2  # beside its connection: the folder's file, written and read


def available_connections(limits: Limits) -> int:
    """How many connections the system's limit of open files leaves room for, at most `limits.sockets`. Raises that limit
    as far as the system allows where it is too low.

    Raises:
        OSError: it is too low for the sessions alone.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return limits.sockets
    files = _FILES_OF_UPLOAD * limits.sessions + REFUSED_AT_ONCE + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.sockets + files
    if soft != resource.RLIM_INFINITY and soft < wanted:
        more = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
            soft = more
        except (ValueError, OSError):  # macOS has a limit above the limit
            pass
    if soft != resource.RLIM_INFINITY and soft - files < limits.connections:
        raise OSError(
            f"{limits.sessions} sessions need {limits.connections + files} open files, and the system allows "
            f"{soft}; raise that limit (ulimit -n), or lower --max_sessions"
        )
    return limits.sockets if soft == resource.RLIM_INFINITY else min(limits.sockets, soft - files)


class Admission:
    """Makes the protocol of each connection that the event loop has accepted: the server's, or one that says no.

    It counts sockets from their acceptance to their end, because asyncio tells of connections only after the TLS
    handshake, and of those that fail in it never. Without a bound asyncio tries, and logs, thousands of times a second to
    accept what there is no descriptor for.

    Args:
        server: aiohttp's.
        most: connections, those in a TLS handshake included.
        on_refused: called for each that is.
    """

    def __init__(self, server: web.Server, most: int, on_refused: Callable[[], object]) -> None:
        self._server, self._most, self._on_refused = server, most, on_refused
        self._admitted: WeakSet[_Accepted] = WeakSet()
        self._refused: WeakSet[_Accepted] = WeakSet()

    def listener(self, bound: socket.socket) -> socket.socket:
        """The same socket, whose connections are counted; `bound` is not to be used any more."""
        return _Listener(bound, self._enter)

    def __call__(self) -> asyncio.Protocol:
        return _Entering(self._protocol)

    def _enter(self, accepted: socket.socket) -> socket.socket:
        """Raises ConnectionAbortedError if there is not even a place for those that are refused."""
        if len(self._admitted) < self._most:
            return _Accepted(accepted, self._admitted)
        self._on_refused()
        if len(self._refused) < REFUSED_AT_ONCE:
            return _Accepted(accepted, self._refused)
        accepted.close()
        raise ConnectionAbortedError

    def _protocol(self, transport: asyncio.BaseTransport) -> asyncio.Protocol:
        number = transport.get_extra_info("socket").fileno()
        if any(refused.fileno() == number for refused in self._refused):
            return _Refusing()
        if len(self._server.connections) >= self._most:  # on Windows the event loop accepts by itself
            self._on_refused()
            return _Refusing()
        return self._server()


class _Listener(socket.socket):
    """What it accepts is what `enter` makes of it."""

    def __init__(self, bound: socket.socket, enter: Callable[[socket.socket], socket.socket]) -> None:
        super().__init__(bound.family, bound.type, bound.proto, fileno=bound.detach())
        self._enter = enter

    def accept(self) -> tuple[socket.socket, object]:
        accepted, address = super().accept()
        return self._enter(accepted), address


class _Accepted(socket.socket):
    """A connection that is one of `opened` until it is closed."""

    def __init__(self, accepted: socket.socket, opened: WeakSet[_Accepted]) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        self._opened = opened
        opened.add(self)

    def close(self) -> None:
        super().close()
        self._opened.discard(self)


class _Entering(asyncio.Protocol):
    """Makes room for another protocol once there is a connection, with TLS after its handshake."""

    def __init__(self, choose: Callable[[asyncio.BaseTransport], asyncio.Protocol]) -> None:
        self._choose = choose

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        protocol = self._choose(transport)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


class _Refusing(asyncio.Protocol):
    """Tells a client that there are too many, and hangs up."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        body = json.dumps({"status": "failed", "message": "too many connections are open; try again later"}).encode()
        transport.write(
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json; charset=utf-8\r\nConnection: close\r\n"
            b"Retry-After: %d\r\nContent-Length: %d\r\n\r\n" % (RETRY_SECONDS, len(body)) + body
        )
        transport.close()
