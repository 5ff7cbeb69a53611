"""Routes of the server, access checks and headers of its responses."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from wenet_fusion_runtime.console import SHOWN, visible
from wenet_fusion_runtime.server.access import Access
from wenet_fusion_runtime.server.errors import ClientError, Reason, internal_error, limit_reached
from wenet_fusion_runtime.server.guard.addresses import Proxies, Visitor, group
from wenet_fusion_runtime.server.guard.fair_protocol import FairProtocol
from wenet_fusion_runtime.server.http.metrics import CONTENT_TYPE
from wenet_fusion_runtime.server.http.pages import Page
from wenet_fusion_runtime.server.http.responses import HEADERS, error_response, json_response
from wenet_fusion_runtime.server.http.server_info import info_record
from wenet_fusion_runtime.server.http.upload_answer import TranscribeRoute, UploadRoute
from wenet_fusion_runtime.server.http.uploads import Upload
from wenet_fusion_runtime.server.openai import realtime_connection
from wenet_fusion_runtime.server.openai.prompt_words import PromptWords
from wenet_fusion_runtime.server.openai.realtime_connection import RealtimeConnection
from wenet_fusion_runtime.server.openai.transcription_answer import TranscriptionsRoute, openai_response
from wenet_fusion_runtime.server.service import LOG, Service
from wenet_fusion_runtime.server.settings import ModelTitle
from wenet_fusion_runtime.server.websocket.connection import Connection
from wenet_fusion_runtime.server.websocket.live_connection import LiveConnection
from wenet_fusion_runtime.server.websocket.socket import WebSocket

OPENAI = "/v1/"  # the paths of OpenAI's protocols begin with it
OWNER = "wenet_fusion"  # owner of the model, in lists of models
CLIENT_HEADER = re.compile("x-stainless-[a-z0-9-]+")  # headers in which OpenAI's client describes itself

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build_app(
    service: Service, access: Access, proxies: Proxies, pages: Mapping[str, Page], model: ModelTitle
) -> web.Application:
    """Build the application.

    Args:
        service: decodes sessions and uploads.
        access: token, origins and host names that are accepted.
        proxies: proxies whose header `X-Forwarded-For` is trusted.
        pages: files of the browser page by their paths.
        model: what clients see of the model.
    """
    routes = _Routes(service, access, proxies, pages, model)
    app = web.Application(middlewares=[routes.guard])
    app.router.add_post("/transcribe", routes.transcribe)
    app.router.add_post(f"{OPENAI}audio/transcriptions", routes.transcriptions)
    app.router.add_get(f"{OPENAI}models", routes.models)
    app.router.add_get(f"{OPENAI}models/{{name}}", routes.models)
    app.router.add_get("/healthz", routes.healthz)
    app.router.add_get("/metrics", routes.metrics)
    app.router.add_get("/info", routes.info)
    app.router.add_get("/ws", routes.websocket)
    app.router.add_get(f"{OPENAI}realtime", routes.realtime)
    for path in {"/", *pages}:
        app.router.add_get(path, routes.page)  # / is also an address for WebSockets
    app.on_response_prepare.append(routes.add_headers)
    return app


class _Routes:
    def __init__(
        self, service: Service, access: Access, proxies: Proxies, pages: Mapping[str, Page], model: ModelTitle
    ) -> None:
        self._service, self._access, self._proxies = service, access, proxies
        self._pages, self._model = pages, model
        self._uploads = 0
        meta, rules = service.meta, service.file_rules
        self._prompt_words = PromptWords(meta.vocabulary, service.recognizer.options.mode)
        self._transcribe = TranscribeRoute(meta, rules)
        self._transcriptions = TranscriptionsRoute(meta, rules, self._prompt_words)
        self._started = round(time.time())

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Check access, and turn every exception into a response with a reason."""
        response: web.StreamResponse
        if (fair := _fair(request)) is not None:  # slow down clients that send requests without a pause
            await asyncio.sleep(fair.frames.spend(1, asyncio.get_running_loop().time()))
        try:
            self._check_host(request)
            if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
                response = self._preflight(request)
            else:
                self._check(request)
                response = await handler(request)
        except ClientError as error:
            self._service.report(error, self._label(request))
            response = _failed(request, error)
        except web.HTTPException as error:  # 404, 405, 413, a bad handshake
            named = visible(f"{request.method} {request.path}", SHOWN)
            response = _failed(request, ClientError(Reason.PROTOCOL, f"{named}: {error.reason}"))
            response.set_status(error.status)
            response.headers.update({name: value for name, value in error.headers.items() if name == "Allow"})
        except ConnectionError as error:  # nobody receives the response
            LOG.info("%s: disconnected", self._label(request))
            response = _failed(request, ClientError(Reason.PROTOCOL, f"the connection was lost ({error})"))
        except Exception:
            LOG.exception("%s: failed", self._label(request))
            self._service.metrics.count_error(Reason.INTERNAL)
            response = _failed(request, internal_error())
        return response

    async def add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Add the common headers, and the one that lets a page of an allowed origin read the response."""
        response.headers.update(HEADERS)
        if (origin := request.headers.get("Origin")) and self._allows_origin(request):
            response.headers.update({"Access-Control-Allow-Origin": origin, "Vary": "Origin"})

    def _allows_origin(self, request: web.Request) -> bool:
        return self._access.allows_origin(request.headers.get("Origin"), request.headers.get("Host"))

    def _check_origin(self, request: web.Request) -> None:
        if not self._allows_origin(request):
            raise ClientError(
                Reason.ORIGIN,
                f"pages of {visible(request.headers['Origin'], SHOWN)} may not use this server; allow them with "
                "--allowed_origin",
            )

    def _check_host(self, request: web.Request) -> None:
        host = request.headers.get("Host")
        if not self._access.allows_host(host):
            raise ClientError(
                Reason.HOST,
                f"'{visible(host or '', SHOWN)}' (header Host) is not a name of this server; allow it with "
                "--allowed_hosts, or use an address",
            )

    def _check(self, request: web.Request) -> None:
        is_socket = _wants_socket(request)
        if not is_socket and (request.path == "/healthz" or request.path in self._pages):
            return  # load balancers and the page itself need no token
        self._check_origin(request)
        if not self._access.allows_token(request.headers.get("Authorization"), _other_token(request)):
            raise ClientError(
                Reason.TOKEN, "a token is needed: the header 'Authorization: Bearer TOKEN', or ?token=TOKEN"
            )

    def _preflight(self, request: web.Request) -> web.Response:
        """Answer a CORS preflight, which asks, without a token, whether a page of another origin may send requests."""
        self._check_origin(request)
        asked = request.headers.get("Access-Control-Request-Headers", "").lower().split(",")
        clients = [name for name in map(str.strip, asked) if CLIENT_HEADER.fullmatch(name)]
        return web.Response(
            status=204,
            headers={
                "Access-Control-Allow-Methods": "GET, POST",
                "Access-Control-Allow-Headers": ", ".join(["Authorization", "Content-Type", *clients]),
                "Access-Control-Max-Age": "600",
            },
        )

    async def websocket(self, request: web.Request) -> web.StreamResponse:
        """Serve a WebSocket of WeNet's protocol."""
        return await self._serve(request, Connection.failed, Connection)

    async def realtime(self, request: web.Request) -> web.StreamResponse:
        """Serve a WebSocket of OpenAI's realtime protocol."""

        def make(service: Service, socket: WebSocket, label: str, visitor: Visitor) -> LiveConnection:
            return RealtimeConnection(service, socket, label, visitor, self._prompt_words)

        return await self._serve(request, RealtimeConnection.failed, make, (realtime_connection.PROTOCOL,))

    async def _serve(
        self,
        request: web.Request,
        failed: Callable[[str], str],
        make: Callable[[Service, WebSocket, str, Visitor], LiveConnection],
        protocols: tuple[str, ...] = (),
    ) -> web.StreamResponse:
        if not _wants_socket(request):
            raise ClientError(Reason.PROTOCOL, f"{request.path} accepts WebSockets only")
        if not request.headers.get("Sec-WebSocket-Key", "").isascii():  # aiohttp refuses all other wrong keys
            raise ClientError(Reason.PROTOCOL, "the header Sec-WebSocket-Key must be base64")
        self._service.check_draining()  # before the handshake: a status tells a proxy to try another server
        fair = _fair(request)
        frames = None if fair is None else fair.frames
        socket = WebSocket(request, self._service.limits.message_bytes, failed, frames, protocols)
        await socket.prepare(request)
        connection = make(self._service, socket, self._label(request), self._visitor(request))
        self._service.add(connection)
        try:
            await connection.run()
        finally:
            self._service.remove(connection)
        return socket

    async def transcribe(self, request: web.Request) -> web.StreamResponse:
        """Recognise an uploaded file."""
        return await self._upload(request, self._transcribe)

    async def transcriptions(self, request: web.Request) -> web.StreamResponse:
        """Recognise an uploaded file according to OpenAI's protocol."""
        return await self._upload(request, self._transcriptions)

    async def models(self, request: web.Request) -> web.StreamResponse:
        """Return a record of the server's model, alone or in a list."""
        record = {"id": self._model.name, "object": "model", "created": self._started, "owned_by": OWNER}
        if (name := request.match_info.get("name")) is None:
            return json_response({"object": "list", "data": [record]})
        if name != self._model.name:
            raise web.HTTPNotFound(reason=f"the model is {visible(self._model.name, SHOWN)}")
        return json_response(record)

    async def _upload(self, request: web.Request, route: UploadRoute) -> web.StreamResponse:
        limits = self._service.limits
        self._service.check_draining()
        if self._uploads >= limits.sessions:  # an upload may fill a temporary file before its session begins
            raise limit_reached(f"the limit of {limits.sessions} uploads is reached")
        if (request.content_length or 0) > limits.upload_bytes + (1 << 16):  # a form contains more than the file
            raise ClientError(
                Reason.UPLOAD_SIZE,
                f"the file has more than {limits.upload_bytes} bytes; cut it, or stream it over a WebSocket",
            )
        upload = Upload(self._service, request, self._label(request), route)
        self._service.add(upload)
        self._uploads += 1
        try:
            with self._service.sessions.open(self._visitor(request)):
                return await upload.respond()
        finally:
            self._uploads -= 1
            self._service.remove(upload)

    def _visitor(self, request: web.Request) -> Visitor:
        """Return the client of a request: the one that a trusted proxy names, else the peer of the connection."""
        fair, address = _fair(request), self._client(request)
        seat = None if fair is None else fair.seat
        if seat is not None:
            seat.address = group(address)
        return Visitor("" if self._proxies.is_trusted(address) else group(address), seat)

    def _client(self, request: web.Request) -> str:
        return self._proxies.client(request.remote or "", request.headers.getall("X-Forwarded-For", []))

    def _label(self, request: web.Request) -> str:
        """Return the name of a client in the log; the path is percent-encoded, so it cannot contain a line end."""
        return f"{self._client(request)} {visible(request.rel_url.raw_path, SHOWN)}"

    async def healthz(self, request: web.Request) -> web.StreamResponse:
        """Return status 200, or 503 while the server is shutting down."""
        is_draining = self._service.is_draining
        record = {"status": "draining" if is_draining else "ok", "sessions": self._service.engine.statistics.sessions}
        return json_response(record, 503 if is_draining else 200)

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        """Return the metrics for Prometheus."""
        return web.Response(body=self._service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def info(self, request: web.Request) -> web.StreamResponse:
        """Return the record of the model, its chunk sizes and the server's limits."""
        return json_response(info_record(self._service, self._model))

    async def page(self, request: web.Request) -> web.StreamResponse:
        """Return a file of the page, or serve a WebSocket at /."""
        if request.path == "/" and _wants_socket(request):
            return await self.websocket(request)
        page = self._pages.get(request.path)
        if page is None:
            raise web.HTTPNotFound(reason="Not Found")
        headers = {"Content-Type": page.content_type, "ETag": page.etag, "Cache-Control": "no-cache"}
        if page.etag in request.headers.get("If-None-Match", ""):
            return web.Response(status=304, headers=headers)
        return web.Response(body=page.content, headers=headers)


def _failed(request: web.Request, error: ClientError) -> web.Response:
    return openai_response(error) if request.path.startswith(OPENAI) else error_response(error)


def _wants_socket(request: web.Request) -> bool:
    return request.headers.get("Upgrade", "").lower() == "websocket"


def _other_token(request: web.Request) -> str | None:
    """Return the token from a subprotocol, where OpenAI's clients in pages put it, or from the query; else None."""
    for name in request.headers.get("Sec-WebSocket-Protocol", "").split(","):
        if name.strip().startswith(realtime_connection.KEY_PROTOCOL):
            return name.strip().removeprefix(realtime_connection.KEY_PROTOCOL)
    return request.query.get("token")


def _fair(request: web.Request) -> FairProtocol | None:
    """Return the `FairProtocol` of a request's connection; None if it has none, e.g. in a test."""
    return None if request.transport is None else request.transport.get_extra_info(FairProtocol.NAME)
