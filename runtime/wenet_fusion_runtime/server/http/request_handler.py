"""aiohttp's protocol, with error responses that do not name libraries."""

from __future__ import annotations

from typing import Any

from aiohttp import http_exceptions, web
from aiohttp.web_request import BaseRequest

from wenet_fusion_runtime.console import SHOWN, visible
from wenet_fusion_runtime.server.errors import ClientError, Reason, internal_error
from wenet_fusion_runtime.server.http.responses import HEADERS, error_response


class RequestHandler(web.RequestHandler):
    """Answer requests that are not valid HTTP in the form of the routes' errors.

    aiohttp's own answer would contain its version, Python's, and the request.

    >>> RequestHandler.handle_error.__name__
    'handle_error'
    """

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
