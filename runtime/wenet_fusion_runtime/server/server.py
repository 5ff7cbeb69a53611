"""Run the server until a signal stops it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from aiohttp import web

from wenet_fusion_runtime.engine.engine import Engine
from wenet_fusion_runtime.server.bind import socket_url, tls_context
from wenet_fusion_runtime.server.connection_limits import ACCEPTED_AT_ONCE, ConnectionLimiter, available_connections
from wenet_fusion_runtime.server.errors import Reason
from wenet_fusion_runtime.server.guard.steady_loop import run_steadily
from wenet_fusion_runtime.server.http.app import build_app
from wenet_fusion_runtime.server.http.pages import load_pages
from wenet_fusion_runtime.server.http.request_handler import RequestHandler
from wenet_fusion_runtime.server.service import LOG, Service
from wenet_fusion_runtime.server.settings import ModelTitle, Settings
from wenet_fusion_runtime.stream.recognizer import Recognizer

BACKLOG = 1024  # connections that wait to be accepted
HANDLER_SECONDS = 2.0  # time for request handlers to end after the drain


def run(
    recognizer: Recognizer,
    model: ModelTitle,
    settings: Settings,
    sockets: list[socket.socket],
    announce: Callable[[list[str]], object],
) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP, then let open sessions finish within `drain_seconds`.

    Meanwhile health checks are answered and new sessions refused. A second signal ends the wait: sessions that are
    still open have FINISH_SECONDS to send the text of their audio so far.

    Args:
        recognizer: decodes live sessions; uploads use the endpoint rules of files.
        model: what clients see of the model.
        settings: all other settings.
        sockets: bound sockets, see `bind`; they are closed at the end.
        announce: called with the URLs once the server accepts connections.
    Raises:
        OSError, ValueError: a setting cannot be applied.
    """
    run_steadily(_run(recognizer, model, settings, sockets, announce))


async def _run(
    recognizer: Recognizer,
    model: ModelTitle,
    settings: Settings,
    sockets: list[socket.socket],
    announce: Callable[[list[str]], object],
) -> None:
    context = tls_context(settings.bind)
    limits, drain_seconds = settings.limits, settings.drain_seconds
    most = available_connections(limits)
    engine = Engine(recognizer.model, replace(settings.engine, max_sessions=limits.sessions))
    service = Service(recognizer, engine, limits, settings.chunks)
    app = build_app(service, settings.access, settings.proxies, load_pages(), model)
    if hasattr(os, "fork"):  # without fork, only uploads fail
        service.decoders.start()
    loop = asyncio.get_running_loop()
    stop, hurry = asyncio.Event(), asyncio.Event()
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=HANDLER_SECONDS)
    await runner.setup()
    server_of_runner = runner.server
    assert server_of_runner is not None

    def make_handler() -> RequestHandler:
        return RequestHandler(
            server_of_runner,
            loop=loop,
            access_log=cast(Any, None),
            keepalive_timeout=limits.start_seconds,
            lingering_time=0.0,  # RequestHandler drops the rest of the body itself
            logger=LOG,
        )

    limiter = ConnectionLimiter(make_handler, limits, most, lambda: service.metrics.count_error(Reason.FULL))
    servers: list[asyncio.Server] = []
    listeners = [limiter.listener(opened) for opened in sockets]
    try:
        for opened in listeners:
            servers.append(
                await loop.create_server(
                    limiter,
                    sock=opened,
                    ssl=context,
                    backlog=ACCEPTED_AT_ONCE,
                    ssl_handshake_timeout=None if context is None else limits.start_seconds,
                )
            )
            opened.listen(BACKLOG)  # asyncio's `backlog` is also the number of connections accepted at once
        _on_signals(loop, stop, hurry)
        announce([socket_url(opened, context is not None) for opened in listeners])
        await stop.wait()
        LOG.info("stopping; clients that have %g s to finish: %d", drain_seconds, service.clients)
        if settings.bind.reuse_port:  # new clients then reach another process
            for server in servers:
                server.close()
        ended = await service.drain(drain_seconds, hurry)
        LOG.info("stopped; clients that were ended before they finished: %d", ended)
    finally:
        for server in servers:
            server.close()
        await runner.cleanup()
        await service.decoders.close()
        await asyncio.to_thread(engine.shutdown)


def _on_signals(loop: asyncio.AbstractEventLoop, stop: asyncio.Event, hurry: asyncio.Event) -> None:
    def handle() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in filter(None, (signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGHUP", None))):
        try:
            loop.add_signal_handler(number, handle)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(handle))
