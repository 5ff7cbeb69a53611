"""Routes of the server, access checks and headers of its responses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from wenet_fusion_runtime.server.access import Access
from wenet_fusion_runtime.server.errors import ClientError, Reason, internal_error, limit_reached
from wenet_fusion_runtime.server.http.metrics import CONTENT_TYPE
from wenet_fusion_runtime.server.http.pages import Page
from wenet_fusion_runtime.server.http.responses import error_response, json_response
from wenet_fusion_runtime.server.http.uploads import Upload
from wenet_fusion_runtime.server.service import LOG, Service
from wenet_fusion_runtime.server.websocket import protocol
from wenet_fusion_runtime.server.websocket.connection import Connection
from wenet_fusion_runtime.server.websocket.socket import WebSocket

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
# The page loads scripts, styles and pictures from its own server only, and connects to it only.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "media-src 'self' blob:; connect-src 'self'; worker-src 'self'; manifest-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Server": "wenet-fusion-runtime",  # aiohttp's default shows its version and Python's
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # a URL may contain a token
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def build_app(service: Service, access: Access, pages: Mapping[str, Page], model: str) -> web.Application:
    """Build the application.

    Args:
        service: decodes sessions and uploads.
        access: token and origins that are accepted.
        pages: files of the browser page by their paths.
        model: name of the model, shown to users.
    """
    routes = _Routes(service, access, pages, model)
    app = web.Application(middlewares=[routes.guard])
    app.router.add_post("/transcribe", routes.transcribe)
    app.router.add_get("/healthz", routes.healthz)
    app.router.add_get("/metrics", routes.metrics)
    app.router.add_get("/info", routes.info)
    app.router.add_get("/ws", routes.websocket)
    for path in {"/", *pages}:
        app.router.add_get(path, routes.page)  # / is a WebSocket's address too
    app.on_response_prepare.append(routes.add_headers)
    return app


class _Routes:
    def __init__(self, service: Service, access: Access, pages: Mapping[str, Page], model: str) -> None:
        self._service, self._access, self._pages, self._model = service, access, pages, model
        self._uploads = 0

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Check access, and turn every exception into a response with a reason."""
        response: web.StreamResponse
        try:
            if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
                response = self._preflight(request)
            else:
                self._check(request)
                response = await handler(request)
        except ClientError as error:
            self._service.report(error, _label(request))
            response = error_response(error)
        except web.HTTPException as error:  # 404, 405, 413, a bad handshake
            response = error_response(ClientError(Reason.PROTOCOL, f"{request.method} {request.path}: {error.reason}"))
            response.set_status(error.status)
            response.headers.update({name: value for name, value in error.headers.items() if name == "Allow"})
        except ConnectionError as error:  # the response reaches nobody
            LOG.info("%s: disconnected", _label(request))
            response = error_response(ClientError(Reason.PROTOCOL, f"the connection was lost ({error})"))
        except Exception:
            LOG.exception("%s: failed", _label(request))
            self._service.metrics.count_error(Reason.INTERNAL)
            response = error_response(internal_error())
        return response

    async def add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Add the headers of every response, and the one that lets a page of an allowed origin read it."""
        response.headers.update(_HEADERS)
        if (origin := request.headers.get("Origin")) and self._allows_origin(request):
            response.headers.update({"Access-Control-Allow-Origin": origin, "Vary": "Origin"})

    def _allows_origin(self, request: web.Request) -> bool:
        return self._access.allows_origin(request.headers.get("Origin"), request.headers.get("Host"))

    def _check_origin(self, request: web.Request) -> None:
        if not self._allows_origin(request):
            raise ClientError(
                Reason.ORIGIN,
                f"pages of {request.headers['Origin']} may not use this server; allow them with --allowed_origin",
            )

    def _check(self, request: web.Request) -> None:
        is_socket = _wants_socket(request)
        if not is_socket and (request.path == "/healthz" or request.path in self._pages):
            return  # load balancers and the page itself need no token
        self._check_origin(request)
        if not self._access.allows_token(request.headers.get("Authorization"), request.query.get("token")):
            raise ClientError(
                Reason.TOKEN, "a token is needed: the header 'Authorization: Bearer TOKEN', or ?token=TOKEN"
            )

    def _preflight(self, request: web.Request) -> web.Response:
        """Answer a CORS preflight, which has no token: may a page of another origin send a token or a file?"""
        self._check_origin(request)
        return web.Response(
            status=204,
            headers={
                "Access-Control-Allow-Methods": "GET, POST",
                "Access-Control-Allow-Headers": "Authorization, Content-Type",
                "Access-Control-Max-Age": "600",
            },
        )

    async def websocket(self, request: web.Request) -> web.StreamResponse:
        """Serve a WebSocket."""
        if not _wants_socket(request):
            raise ClientError(Reason.PROTOCOL, f"{request.path} accepts WebSockets only")
        socket = WebSocket(request, self._service.limits.message_bytes, protocol.failed)
        await socket.prepare(request)
        connection = Connection(self._service, socket, _label(request))
        self._service.add(connection)
        try:
            await connection.run()
        finally:
            self._service.remove(connection)
        return socket

    async def transcribe(self, request: web.Request) -> web.StreamResponse:
        """Recognise an uploaded file."""
        limits = self._service.limits
        self._service.check_draining()
        if self._uploads >= limits.sessions:  # each may fill a temporary file before its session begins
            raise limit_reached(f"the limit of {limits.sessions} uploads is reached")
        if (request.content_length or 0) > limits.upload_bytes + (1 << 16):  # a form contains more than the file
            raise ClientError(
                Reason.UPLOAD_SIZE,
                f"the file has more than {limits.upload_bytes} bytes; cut it, or stream it over a WebSocket",
            )
        upload = Upload(self._service, request, _label(request))
        self._service.add(upload)
        self._uploads += 1
        try:
            return await upload.respond()
        finally:
            self._uploads -= 1
            self._service.remove(upload)

    async def healthz(self, request: web.Request) -> web.StreamResponse:
        """Return status 200, or 503 while the server is shutting down."""
        is_draining = self._service.is_draining
        record = {"status": "draining" if is_draining else "ok", "sessions": self._service.engine.statistics.sessions}
        return json_response(record, 503 if is_draining else 200)

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        """Return the metrics for Prometheus."""
        return web.Response(body=self._service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def info(self, request: web.Request) -> web.StreamResponse:
        """Return the model, its chunk sizes and the server's limits."""
        return json_response(_info(self._service, self._model))

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


def _info(service: Service, model: str) -> dict[str, Any]:
    meta, chunks, limits = service.meta, service.chunks, service.limits
    chunk = meta.default_chunk if chunks.chunk is None else chunks.chunk
    return {
        "model": model,
        "sample_rate": meta.sample_rate,
        "frame_seconds": meta.frame_seconds,
        "chunks": [
            {"chunk": size, "left": left, "seconds": round(size * meta.frame_seconds, 6)}
            for size, left in meta.chunkings
        ],
        "default": {"chunk": chunk, "left": meta.left(chunk) if chunks.left is None else chunks.left},
        "latency": dict(meta.latency),
        "units": len(meta.vocabulary),
        "mode": service.recognizer.options.mode,
        "precision": meta.precision,
        "limits": {
            "audio_seconds": limits.audio_seconds,
            "idle_seconds": limits.idle_seconds,
            "message_bytes": limits.message_bytes,
            "upload_bytes": limits.upload_bytes,
        },
    }


def _wants_socket(request: web.Request) -> bool:
    return request.headers.get("Upgrade", "").lower() == "websocket"


def _label(request: web.Request) -> str:
    """Return the name of a client in the log; the path is percent-encoded, so it cannot contain a line end."""
    return f"{request.remote} {request.rel_url.raw_path}"
