"""The server's routes and the headers of its answers. Knows no sockets and no signals of the system."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from wenet_fusion_runtime.server.access import Access
from wenet_fusion_runtime.server.errors import TRY_LATER, Reason, Refusal
from wenet_fusion_runtime.server.http.metrics import CONTENT_TYPE
from wenet_fusion_runtime.server.http.pages import Page
from wenet_fusion_runtime.server.http.responses import json_response, refusal_response
from wenet_fusion_runtime.server.http.uploads import Upload
from wenet_fusion_runtime.server.service import LOG, Service
from wenet_fusion_runtime.server.websocket import protocol
from wenet_fusion_runtime.server.websocket.connection import Connection
from wenet_fusion_runtime.server.websocket.socket import WebSocket

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
# The page has scripts, styles and pictures of its own only, and may talk to its server only.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; media-src 'self' blob:; "
    "connect-src 'self'; worker-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Server": "wenet-fusion-runtime",  # aiohttp would tell its version and Python's
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # an address may have a token in it
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def build_app(service: Service, access: Access, pages: Mapping[str, Page], model: str) -> web.Application:
    """The application.

    Args:
        service, access: see there.
        pages: files of the browser page by their paths.
        model: its name, for people.
    """
    routes = _Routes(service, access, pages, model)
    app = web.Application(middlewares=[routes.guard])
    app.router.add_post("/transcribe", routes.transcribe)
    app.router.add_get("/healthz", routes.healthz)
    app.router.add_get("/metrics", routes.metrics)
    app.router.add_get("/info", routes.info)
    app.router.add_get("/ws", routes.websocket)
    for path in {"/", *pages}:
        app.router.add_get(path, routes.page)  # / is the WebSocket's address too
    app.on_response_prepare.append(routes.add_headers)
    return app


class _Routes:
    def __init__(self, service: Service, access: Access, pages: Mapping[str, Page], model: str) -> None:
        self._service, self._access, self._pages, self._model = service, access, pages, model
        self._uploads = 0

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Lets in who may come; every refusal is an answer with a reason."""
        try:
            if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
                response = self._preflight(request)
            else:
                self._check(request)
                response = await handler(request)
        except Refusal as refusal:
            self._service.refused(refusal, _who(request))
            response = refusal_response(refusal)
        except web.HTTPException as error:  # 404, 405, 413, a bad handshake
            response = refusal_response(Refusal(Reason.PROTOCOL, f"{request.method} {request.path}: {error.reason}"))
            response.set_status(error.status)
            response.headers.update({name: value for name, value in error.headers.items() if name == "Allow"})
        except ConnectionError as error:  # nobody is there to take the answer
            LOG.info("%s: went away", _who(request))
            response = refusal_response(Refusal(Reason.PROTOCOL, f"the connection was lost ({error})"))
        except Exception:  # our own mistake must not stay unsaid
            LOG.exception("%s: failed", _who(request))
            self._service.metrics.refused(Reason.INTERNAL)
            response = refusal_response(Refusal(Reason.INTERNAL, "the server failed; its log says why"))
        return response

    async def add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Those of every answer; and browsers show an answer to a page of another origin only if it is named."""
        response.headers.update(_HEADERS)
        if (origin := request.headers.get("Origin")) and self._allows_origin(request):
            response.headers.update({"Access-Control-Allow-Origin": origin, "Vary": "Origin"})

    def _allows_origin(self, request: web.Request) -> bool:
        return self._access.allows_origin(request.headers.get("Origin"), request.headers.get("Host"))

    def _check_origin(self, request: web.Request) -> None:
        if not self._allows_origin(request):
            raise Refusal(
                Reason.ORIGIN,
                f"pages of {request.headers['Origin']} may not use this server; allow them with --allowed_origin",
            )

    def _check(self, request: web.Request) -> None:
        is_socket = _wants_socket(request)
        if not is_socket and (request.path == "/healthz" or request.path in self._pages):
            return  # for balancers, and for people who have yet to say their token
        self._check_origin(request)
        if not self._access.allows_token(request.headers.get("Authorization"), request.query.get("token")):
            raise Refusal(Reason.TOKEN, "a token is needed: the header 'Authorization: Bearer TOKEN', or ?token=TOKEN")

    def _preflight(self, request: web.Request) -> web.Response:
        """Browsers ask so before a page of another origin sends a token or a file; the question itself has no token."""
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
        if not _wants_socket(request):
            raise Refusal(Reason.PROTOCOL, f"{request.path} speaks WebSocket only")
        socket = WebSocket(request, self._service.limits.message_bytes, protocol.failed)
        await socket.prepare(request)
        connection = Connection(self._service, socket, _who(request))
        self._service.add(connection)
        try:
            await connection.run()
        finally:
            self._service.remove(connection)
        return socket

    async def transcribe(self, request: web.Request) -> web.StreamResponse:
        limits = self._service.limits
        self._service.check_draining()
        if self._uploads >= limits.sessions:  # each may fill a file before its session begins
            raise Refusal(
                Reason.FULL, f"{self._uploads} uploads are open, and no more may be; try again later", TRY_LATER
            )
        if (request.content_length or 0) > limits.upload_bytes + (1 << 16):  # a form has more than the file
            raise Refusal(
                Reason.UPLOAD_SIZE,
                f"the file has more than {limits.upload_bytes} bytes; cut it, or send it as a stream",
            )
        upload = Upload(self._service, request, _who(request))
        self._service.add(upload)
        self._uploads += 1
        try:
            return await upload.respond()
        finally:
            self._uploads -= 1
            self._service.remove(upload)

    async def healthz(self, request: web.Request) -> web.StreamResponse:
        is_draining = self._service.is_draining
        record = {"status": "draining" if is_draining else "ok", "sessions": self._service.engine.statistics.sessions}
        return json_response(record, 503 if is_draining else 200)

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=self._service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def info(self, request: web.Request) -> web.StreamResponse:
        return json_response(_info(self._service, self._model))

    async def page(self, request: web.Request) -> web.StreamResponse:
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


def _who(request: web.Request) -> str:
    return f"{request.remote} {request.rel_url.raw_path}"  # encoded: a line of the log stays one
