"""aiohttp's protocol with error responses like those of the routes, paced parsing, and errors for malformed bodies."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any

from aiohttp import StreamReader, http_exceptions, web
from aiohttp.web_protocol import _ErrInfo
from aiohttp.web_request import BaseRequest

from wenet_fusion_runtime.console import SHOWN, visible
from wenet_fusion_runtime.server.errors import ClientError, Reason, internal_error
from wenet_fusion_runtime.server.guard.deadline import within
from wenet_fusion_runtime.server.guard.fair_protocol import FairProtocol
from wenet_fusion_runtime.server.http.body import Body
from wenet_fusion_runtime.server.http.responses import HEADERS, error_response
from wenet_fusion_runtime.server.websocket.masked_frames import MaskedFrames

DROP_SECONDS = 10.0  # time for a client to finish sending a request that has been answered
_DROPPED_AT_ONCE = 64 * 1024  # bytes


class RequestHandler(web.RequestHandler):
    """Answers requests that are not valid HTTP with the same kind of error response as the routes.

    The response of aiohttp would contain the versions of aiohttp and Python, and the request.

    >>> RequestHandler.handle_error.__name__
    'handle_error'
    """

    def data_received(self, data: bytes) -> None:
        """Parse data of the client. An error in a body is passed to its reader, which would otherwise wait forever."""
        super().data_received(data)
        if not self._messages or not isinstance(error := self._messages[-1][0], _ErrInfo):
            return
        bodies = [body for _, body in self._messages]
        if self._current_request is not None:
            bodies.append(self._current_request.content)
        for body in bodies:
            if not body.is_eof() and body.exception() is None:
                body.set_exception(web.RequestPayloadError(error.message))

    _later: asyncio.TimerHandle | None = None  # timer to parse the data that the parser has kept

    def pause_reading(self) -> None:
        """Stop parsing, because the body has enough unread data."""
        self._parse_later(None)
        super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Parse the data that the parser has kept, once the budget of the connection allows it, and read on.

        aiohttp parses as fast as a body is read, even if the body is read only to be dropped.
        """
        fair = None if self.transport is None else self.transport.get_extra_info(FairProtocol.NAME)
        if fair is None or self._upgraded or not (resume_parser and self._reading_paused):
            super().resume_reading(resume_parser)
        elif (wait := fair.parsing_wait) > 0:
            self._parse_later(wait)
        else:
            self._parse_later(None)
            fair.parse(super().resume_reading)

    def connection_lost(self, exc: BaseException | None) -> None:
        """End the connection."""
        self._parse_later(None)
        super().connection_lost(exc)

    def _parse_later(self, seconds: float | None) -> None:
        """Set or stop the timer that calls `resume_reading`."""
        if self._later is not None:
            self._later.cancel()
        self._later = None if seconds is None else self._loop.call_later(seconds, self.resume_reading)

    def set_parser(self, parser: Any, *args: Any, **kw: Any) -> None:
        """Switch to a parser of WebSocket frames, and refuse unmasked frames."""
        super().set_parser(MaskedFrames(parser), *args, **kw)  # type: ignore[arg-type]

    async def finish_response(
        self, request: BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the response, then read and drop the rest of the body: a client may read only after it has sent all."""
        finished = await super().finish_response(request, resp, start_time)
        if not request.content.is_eof():
            with contextlib.suppress(ClientError, asyncio.TimeoutError, web.RequestPayloadError):
                await within(_drop(request.content), DROP_SECONDS)
        return finished

    def handle_error(
        self, request: BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Return the response for a request that cannot be parsed, or that failed outside the routes."""
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
        """Log an exception; at level DEBUG if the request is malformed or its client has left, e.g. before it got
        "100 Continue". aiohttp would log these as errors.
        """
        quiet = (http_exceptions.HttpProcessingError, web.RequestPayloadError, ConnectionError)
        if isinstance(kw.get("exc_info"), quiet):
            self.logger.debug(*args, **kw)
        else:
            self.logger.exception(*args, **kw)


async def _drop(content: StreamReader) -> None:
    body = Body(content, limit=sys.maxsize)
    while await body.read(_DROPPED_AT_ONCE):
        pass
