"""A client of WeNet's WebSocket protocol: sends one recording and reports its results, over several connections if one
is lost."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import NamedTuple

import aiohttp

from wenet_fusion_runtime.server.session_options import HotWordUpdate, SessionOptions
from wenet_fusion_runtime.server.websocket import protocol
from wenet_fusion_runtime.server.websocket.client_session import (
    CLOSE_SECONDS,
    REPLY_SECONDS,
    ClientSession,
    ConnectionLost,
    ServerError,
    ServerResult,
    Timing,
    Updates,
)
from wenet_fusion_runtime.server.websocket.kept_audio import KeptAudio, Recording

CONNECT_SECONDS = 10.0
RECONNECT_SECONDS = 30.0
SILENCE_SECONDS = 30.0  # a server that sends nothing for this time, not even an answer to a ping, counts as lost
_FIRST_WAIT, _LONGEST_WAIT = 0.25, 4.0  # seconds between attempts to connect again


class ServerAddress(NamedTuple):
    """The address of a server, with the token and the certificates to use."""

    url: str  # ws://, wss://, http:// or https://
    token: str | None = None
    tls: ssl.SSLContext | None = None  # None: trust the system's certificate authorities
    reconnect_seconds: float = RECONNECT_SECONDS  # how long to try to connect again after a lost connection


class Unreachable(ServerError):
    """The server cannot be reached, or accepts no more clients now."""


async def recognise(
    server: ServerAddress,
    recording: Recording,
    options: SessionOptions,
    on_result: Callable[[ServerResult], object],
    endpoint: Mapping[str, float | None] | None = None,
    updates: Updates | None = None,
    on_note: Callable[[str], object] = lambda note: None,
) -> Timing:
    """Send a recording and wait for all its results.

    If the connection is lost, or the server goes away, another session continues: the audio after the last final result
    is sent to it again. That requires results with `timestamps`; without them a lost connection is an error. Meanwhile
    the audio of a live recording is kept.

    Args:
        server: server to connect to.
        recording: audio at the sample rate of the options. Its reading thread has ended when this function returns.
        options: options of the session.
        on_result: called with each result.
        endpoint: endpoint rules that differ from the server's, by name.
        updates: changes of the hot words; None: the hot words do not change.
        on_note: called with a line about each lost connection, and about each new one.
    Raises:
        ServerError: the server cannot be reached, refuses the session, or fails.
        ValueError, OSError: the recording cannot be read.
    """
    may_reconnect = options.timestamps and server.reconnect_seconds > 0
    # Keep live audio from the server's last sign of life to the end of the last attempt to connect again.
    longest_outage = SILENCE_SECONDS + server.reconnect_seconds + 2 * CONNECT_SECONDS
    audio = KeptAudio(recording, options.sample_rate, longest_outage if may_reconnect and recording.is_live else 0.0)
    # If no timestamps are asked for, the server may be WeNet's, which does not answer pings after the end signal.
    silence, timing = SILENCE_SECONDS if options.timestamps else REPLY_SECONDS, Timing()
    lost: ConnectionLost | None = None
    unanswered: Sequence[HotWordUpdate] = ()
    was_ready, give_up, kept_from, wait = False, 0.0, -1.0, _FIRST_WAIT
    ready_at: float | None = None  # clock reading at which the current session became ready

    def on_ready() -> None:
        nonlocal was_ready, ready_at
        was_ready, ready_at = True, time.monotonic()
        if lost is not None:
            on_note(f"connected again; the audio from {audio.start_seconds:.1f} s on is sent again")

    def has_lasted() -> bool:
        return ready_at is not None and time.monotonic() - ready_at > longest_outage

    try:
        while True:
            ready_at = None
            try:
                async with _connected(server, silence) as socket:
                    session = ClientSession(socket, options, audio, timing, on_result, updates, unanswered)
                    await session.run(protocol.start_signal(options, endpoint), on_ready)
                return timing
            except ConnectionLost as error:
                if not was_ready or not may_reconnect:
                    raise
                lost, options, unanswered = error, session.options, session.unanswered  # hot words as they are now
                # Allow the full time again only if the last session made progress.
                if audio.start_seconds > kept_from or has_lasted():
                    kept_from, wait = audio.start_seconds, _FIRST_WAIT
                    give_up = time.monotonic() + server.reconnect_seconds
                on_note(f"the connection was lost after {timing.audio:.1f} s of audio ({error}); connecting again")
            except Unreachable:
                if lost is None:
                    raise
            if time.monotonic() + wait > give_up:
                raise ServerError(
                    f"{lost}; the server could not be reached again for {server.reconnect_seconds:g} s"
                ) from None
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)
            audio.rewind()
    finally:
        await audio.end()


@contextlib.asynccontextmanager
async def _connected(
    server: ServerAddress, silence_seconds: float
) -> AsyncIterator[aiohttp.ClientWebSocketResponse[bool]]:
    """Open a WebSocket. Raises Unreachable if that fails but may succeed later, otherwise ServerError."""
    headers = {} if server.token is None else {"Authorization": f"Bearer {server.token}"}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=CONNECT_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers) as http,
            http.ws_connect(
                server.url,
                ssl=True if server.tls is None else server.tls,
                max_msg_size=0,
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_SECONDS),
                heartbeat=2 / 3 * silence_seconds,  # silence before a ping; its answer may take half this time
            ) as socket,
        ):
            yield socket
    except aiohttp.WSServerHandshakeError as error:
        why = _HANDSHAKES.get(error.status, "is not a server of this protocol")
        kind = Unreachable if error.status in _LATER else ServerError
        raise kind(f"{server.url}: {why} (HTTP {error.status})") from None
    except aiohttp.ClientConnectorCertificateError as error:
        raise ServerError(
            f"{server.url}: its certificate is not trusted ({error.certificate_error}); give --authority FILE "
            "with the certificate that signed it"
        ) from None
    except aiohttp.ServerDisconnectedError:
        raise Unreachable(
            f"{server.url}: closed the connection without a reply; a server with a certificate needs wss:// or https://"
        ) from None
    except (aiohttp.ClientError, asyncio.TimeoutError) as error:
        raise Unreachable(
            f"{server.url}: cannot be reached ({error or 'no reply'}); is the server running there?"
        ) from None


_HANDSHAKES = {
    401: "needs a token: give --token_file, or set WENET_FUSION_TOKEN",
    403: "does not allow this origin",
    503: "accepts no more clients now; try again later",
}
_LATER = (502, 503, 504)  # full, shutting down, or a proxy that cannot reach its server
