"""aiohttp's protocol, with error responses that do not name libraries, and an end for requests that break off."""

from __future__ import annotations

from typing import Any

from aiohttp import http_exceptions, web
from aiohttp.web_protocol import _ErrInfo
from aiohttp.web_request import BaseRequest

from wenet_fusion_runtime.console import SHOWN, visible
from wenet_fusion_runtime.server.errors import ClientError, Reason, internal_error
from wenet_fusion_runtime.server.http.responses import HEADERS, error_response
from wenet_fusion_runtime.server.websocket.masked_frames import MaskedFrames


class RequestHandler(web.RequestHandler):
    """Answer requests that are not valid HTTP in the form of the routes' errors.

    aiohttp's own answer would contain its version, Python's, and the request.

    >>> RequestHandler.handle_error.__name__
    'handle_error'
    """

    def data_received(self, data: bytes) -> None:
        """Parse data of the client. If they end a body with an error, say so to its reader, who would wait on."""
        super().data_received(data)
        if not self._messages or not isinstance(error := self._messages[-1][0], _ErrInfo):
            return
        bodies = [body for _, body in self._messages]
        if self._current_request is not None:
            bodies.append(self._current_request.content)
        for body in bodies:
            if not body.is_eof() and body.exception() is None:
                body.set_exception(web.RequestPayloadError(error.message))

    def set_parser(self, parser: Any, *args: Any, **kw: Any) -> None:
        """Switch to a parser of WebSocket frames; refuse unmasked ones."""
        super().set_parser(MaskedFrames(parser), *args, **kw)  # type: ignore[arg-type]

    def handle_error(
        self, request: BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Return the response for a request that cannot be read, or whose handler failed outside of the routes."""
        self.log_exception("%s: failed", request.remote, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("a response has begun")
        first = (message or "").strip().partition("\n")[0]
        error = ClientError(Reason.PROTOCOL, f"the request is not valid HTTP ({visible(first, SHOWN)})")
        response = error_response(error if status < 500 else internal_error())
        response.set_status(status)
        response.headers.update(HEADERS)
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log an exception; those of malformed requests, which aiohttp logs as errors, at level DEBUG."""
        if isinstance(kw.get("exc_info"), (http_exceptions.HttpProcessingError, web.RequestPayloadError)):
            self.logger.debug(*args, **kw)
        else:
            self.logger.exception(*args, **kw)
