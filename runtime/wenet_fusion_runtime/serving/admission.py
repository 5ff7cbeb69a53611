"""How many connections a server takes, so that nobody can use up its descriptors. Knows of HTTP one answer only."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import Callable

from aiohttp import web

from wenet_fusion_runtime.serving.limits import Limits
from wenet_fusion_runtime.serving.responses import RETRY_SECONDS

ACCEPTED_AT_ONCE = 16      # in a turn of the event loop
_TURNS = 6                 # of the loop from a connection's acceptance to its end, if it is refused
_OTHER_FILES = 64          # of the process: the model, the log, the event loop
_FILES_OF_UPLOAD = 2       # beside its connection: the folder's file, written and read


def available_connections(limits: Limits) -> int:
    """How many connections the system's limit of open files leaves room for, at most `limits.sockets`. Raises that limit
    as far as the system allows where it is too low.

    Raises:
        OSError: it is too low for the sessions alone.
    """
    try:
        import resource
    except ImportError:    # Windows has no such limit
        return limits.sockets
    files = _FILES_OF_UPLOAD * limits.sessions + _TURNS * ACCEPTED_AT_ONCE + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.sockets + files
    if soft != resource.RLIM_INFINITY and soft < wanted:
        more = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
            soft = more
        except (ValueError, OSError):    # macOS has a limit above the limit
            pass
    if soft != resource.RLIM_INFINITY and soft - files < limits.connections:
        raise OSError(f"{limits.sessions} sessions need {limits.connections + files} open files, and the system allows "
                      f"{soft}; raise that limit (ulimit -n), or lower --max_sessions")
    return limits.sockets if soft == resource.RLIM_INFINITY else min(limits.sockets, soft - files)


class Admission:
    """Makes the protocol of each connection that the event loop has accepted: the server's, or one that says no.

    Without it asyncio tries, and logs, thousands of times a second to accept what there is no descriptor for.

    Args:
        server: aiohttp's.
        most: connections, those in a TLS handshake included.
        handshake_seconds: after which those in a handshake are dropped.
        on_refused: called for each that is.
    """

    def __init__(self, server: web.Server, most: int, handshake_seconds: float, on_refused: Callable[[], object]) -> None:
        self._server, self._most, self._on_refused = server, most, on_refused
        self._handshake_seconds = handshake_seconds
        self._entering: deque[tuple[float, _Entering]] = deque()    # when they were accepted, oldest first

    def __call__(self) -> asyncio.Protocol:
        now = asyncio.get_running_loop().time()
        while self._entering and (self._entering[0][1].is_in or self._entering[0][0] < now - self._handshake_seconds):
            self._entering.popleft()
        if len(self._server.connections) + sum(not entering.is_in for _, entering in self._entering) >= self._most:
            self._on_refused()
            return _Refusing()
        protocol = _Entering(self._server())
        self._entering.append((now, protocol))
        return protocol


class _Entering(asyncio.Protocol):
    """Makes room for the server's protocol once there is a connection, with TLS after its handshake."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        self._protocol = protocol
        self.is_in = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.is_in = True
        transport.set_protocol(self._protocol)
        self._protocol.connection_made(transport)


class _Refusing(asyncio.Protocol):
    """Tells a client that there are too many, and hangs up."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        body = json.dumps({"status": "failed", "message": "too many connections are open; try again later"}).encode()
        transport.write(
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json; charset=utf-8\r\nConnection: close\r\n"
            b"Retry-After: %d\r\nContent-Length: %d\r\n\r\n" % (RETRY_SECONDS, len(body)) + body)
        transport.close()
