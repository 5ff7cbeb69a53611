"""Read the body of an upload within a limit of bytes, in small pieces, so that other connections are served too."""

from __future__ import annotations

import asyncio
from typing import cast

from aiohttp import MultipartReader, StreamReader, web

from wenet_fusion_runtime.server.errors import ClientError, Reason
from wenet_fusion_runtime.server.guard.budget import Budget

SMALL = 1024  # bytes; pieces below this size are small, and use up the budget
PIECES_PER_SECOND = 2000.0  # budget of form lines and small pieces; a form has a few lines for each field
PIECES_AT_ONCE = 1000
AUDIO_PIECE = 16  # bytes; smaller pieces, at PIECES_PER_SECOND, cannot carry speech at 16 kHz in real time
MOST_CRUMBS = 20_000  # most form lines and pieces below AUDIO_PIECE in one request
MAX_LINE = 64 * 1024  # bytes


class Body:
    """The body of a request, with those methods of aiohttp's stream that `MultipartReader` calls.

    aiohttp reads all chunks that have arrived, or all lines up to a boundary, in one turn of the event loop. Here one
    turn reads one piece, and a budget slows down small pieces. A request with too many form lines or pieces below
    AUDIO_PIECE bytes is ended. These are counted over the whole request: a limit per second would not help, because the
    server slows such clients down and they would stay below the limit for minutes.

    Args:
        content: aiohttp's stream.
        limit: number of bytes; reading more raises ClientError.

    >>> async def size(request: web.Request) -> int:
    ...     body, found = Body(request.content, limit=1 << 20), 0
    ...     while data := await body.read(4096):
    ...         found += len(data)
    ...     return found
    """

    def __init__(self, content: StreamReader, limit: int) -> None:
        self._content, self._limit = content, limit
        self._budget, self._crumbs = Budget(PIECES_PER_SECOND, PIECES_AT_ONCE), 0
        self._rest = b""

    def form(self, request: web.Request) -> MultipartReader:
        """Return a reader of the form in this body.

        Raises:
            ValueError: the header states no boundary.
        """
        return MultipartReader(request.headers, cast(StreamReader, self))

    def at_eof(self) -> bool:
        """Return whether all data were read."""
        return not self._rest and self._content.at_eof()

    def unread_data(self, data: bytes) -> None:
        """Put data back."""
        self._rest = data + self._rest

    async def read(self, n: int = -1) -> bytes:
        """Return at most `n` bytes; an empty result at the end."""
        if not self._rest:
            self._rest = await self._next(is_file=True)
        size = len(self._rest) if n < 0 else n
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    async def readline(self, *, max_line_length: int | None = None) -> bytes:
        """Return a line with its line end, or the rest of the data if there is no line end.

        Raises:
            ValueError: the line is too long.
        """
        await self._pace(is_useful=False)
        while (end := self._rest.find(b"\n")) < 0:
            if len(self._rest) > (max_line_length or MAX_LINE):
                raise ValueError("a line of the form is too long")
            if not (data := await self._next(is_file=False)):
                end = len(self._rest)
                break
            self._rest += data
        line, self._rest = self._rest[: end + 1], self._rest[end + 1 :]
        return line

    async def _next(self, is_file: bool) -> bytes:
        while True:
            if self._content.total_bytes > self._limit:
                raise ClientError(
                    Reason.UPLOAD_SIZE, f"the request has more than {self._limit} bytes; send the file alone, or cut it"
                )
            data, _ = await self._content.readchunk()
            if len(data) < SMALL:
                await self._pace(is_useful=is_file and len(data) >= AUDIO_PIECE)
            if data or self._content.at_eof():
                return data

    async def _pace(self, is_useful: bool) -> None:
        self._crumbs += not is_useful
        if self._crumbs > MOST_CRUMBS:
            raise ClientError(
                Reason.FLOOD,
                f"the request has more than {MOST_CRUMBS} lines of a form, or pieces of less than {AUDIO_PIECE} bytes; "
                "send larger pieces",
            )
        await asyncio.sleep(self._budget.spend(1, asyncio.get_running_loop().time()))
