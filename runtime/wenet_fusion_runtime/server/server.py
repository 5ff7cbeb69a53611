"""Puts a server together and runs it until a signal stops it. Knows no routes and no recognition."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from dataclasses import replace

from aiohttp import http_exceptions, web

from wenet_fusion_runtime.engine.engine import Engine
from wenet_fusion_runtime.server.bind import tls_context, url
from wenet_fusion_runtime.server.connection_limits import ACCEPTED_AT_ONCE, Admission, available_connections
from wenet_fusion_runtime.server.errors import Reason
from wenet_fusion_runtime.server.http.app import build_app
from wenet_fusion_runtime.server.http.pages import load_pages
from wenet_fusion_runtime.server.service import LOG, Service
from wenet_fusion_runtime.server.settings import Settings
from wenet_fusion_runtime.stream.recognizer import Recognizer

BACKLOG = 1024
FAREWELL_SECONDS = 2.0  # for handlers that are still at work after the drain


def run(
    recognizer: Recognizer,
    model: str,
    settings: Settings,
    sockets: list[socket.socket],
    announce: Callable[[list[str]], object],
) -> None:
    """Serve until SIGTERM or SIGINT comes, then let open sessions end, for `drain_seconds` at most; a second signal ends
    them at once.

    Args:
        recognizer: of live sessions; uploads have the rules of files.
        model: its name, for people.
        settings: see there.
        sockets: of `bind`, closed at the end.
        announce: called with the addresses once they answer.
    Raises:
        OSError, ValueError: what the settings ask for cannot be had.
    """
    asyncio.run(_run(recognizer, model, settings, sockets, announce))


async def _run(
    recognizer: Recognizer,
    model: str,
    settings: Settings,
    sockets: list[socket.socket],
    announce: Callable[[list[str]], object],
) -> None:
    context = tls_context(settings.listening)
    most = available_connections(settings.limits)
    engine = Engine(recognizer.model, replace(settings.engine, max_sessions=settings.limits.sessions))
    service = Service(recognizer, engine, settings.limits, settings.chunks)
    app = build_app(service, settings.access, load_pages(), model)
    loop, limits, drain_seconds = asyncio.get_running_loop(), settings.limits, settings.listening.drain_seconds
    stop, hurry = asyncio.Event(), asyncio.Event()
    is_tls = context is not None
    runner = web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,
        keepalive_timeout=limits.start_seconds,
        shutdown_timeout=FAREWELL_SECONDS,
        logger=_Quiet(LOG, {}),
    )
    await runner.setup()
    servers: list[asyncio.Server] = []
    admission = Admission(runner.server, most, lambda: service.metrics.refused(Reason.FULL))
    listeners = [admission.listener(opened) for opened in sockets]
    try:
        for opened in listeners:
            # A handshake that is not finished counts as a connection without a start.
            servers.append(
                await loop.create_server(
                    admission,
                    sock=opened,
                    ssl=context,
                    backlog=ACCEPTED_AT_ONCE,
                    ssl_handshake_timeout=limits.start_seconds if is_tls else None,
                )
            )
            opened.listen(BACKLOG)  # asyncio's argument is both: how many wait, and how many are accepted at once
        _on_signals(loop, stop, hurry)
        announce([url(opened, is_tls) for opened in listeners])
        await stop.wait()
        LOG.info("stopping; clients that have %g s to finish: %d", drain_seconds, service.clients)
        for server in servers:
            server.close()
        ended = await service.drain(drain_seconds, hurry)
        LOG.info("stopped; clients that did not finish by themselves: %d", ended)
    finally:
        for server in servers:
            server.close()
        await runner.cleanup()
        await asyncio.to_thread(service.engine.shutdown)


def _on_signals(loop: asyncio.AbstractEventLoop, stop: asyncio.Event, hurry: asyncio.Event) -> None:
    def handle() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, handle)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(handle))


class _Quiet(logging.LoggerAdapter):
    """aiohttp logs every request that is no HTTP as an error of the server; it is the client's."""

    def log(self, level: int, message: object, *arguments: object, **options: object) -> None:
        is_theirs = isinstance(options.get("exc_info"), (http_exceptions.HttpProcessingError, web.RequestPayloadError))
        super().log(logging.DEBUG if is_theirs else level, message, *arguments, **options)
