"""A WebSocket that sends an error message before it closes because of a message that cannot be read."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from wenet_fusion_runtime.server.errors import ClientError, Reason
from wenet_fusion_runtime.server.guard.budget import Budget, Pace
from wenet_fusion_runtime.server.guard.fair_protocol import FairProtocol, frame_budget
from wenet_fusion_runtime.server.limits import Limits

CLOSE_SECONDS = 5.0  # time for the client to answer a close frame
LINGER_SECONDS = 2.0  # time in which a client that still sends can read the error message
EMPTY_FRAMES = 10  # a ping, a pong or an empty message counts as this many frames
_POLL_SECONDS = 0.05


class WebSocket(web.WebSocketResponse):
    """aiohttp's WebSocket, which sends an error message before it closes because of an unreadable message.

    Args:
        request: the request that is upgraded.
        max_message_bytes: size of the largest message.
        write_error: turns an error into a text message.
        frames: frame budget of the connection; None: that of `Limits()`.
        protocols: subprotocols that clients may request.

    >>> from aiohttp.test_utils import make_mocked_request
    >>> socket = WebSocket(make_mocked_request("GET", "/ws"), max_message_bytes=1 << 20, write_error=str)
    >>> socket.closed, socket.read_error
    (False, None)
    """

    def __init__(
        self,
        request: web.Request,
        max_message_bytes: int,
        write_error: Callable[[str], str],
        frames: Budget | None = None,
        protocols: tuple[str, ...] = (),
    ) -> None:
        # max_message_bytes + 1: aiohttp refuses messages of exactly max_msg_size bytes.
        # compress=False: a small compressed message could become a large one. writer_limit=0: sends wait for a
        # slow client. autoping=False: `receive` answers pings within the budget.
        super().__init__(
            timeout=CLOSE_SECONDS,
            max_msg_size=max_message_bytes + 1,
            writer_limit=0,
            compress=False,
            autoping=False,
            protocols=protocols,
        )
        self._pace = Pace(
            frames or frame_budget(Limits()), "pings and empty frames without audio exceeded --max_frames_per_second"
        )
        self.read_error: ClientError | None = None
        self._request = request
        self._write_error = write_error
        self._read_errors: dict[int, tuple[Reason, str]] = {
            WSCloseCode.MESSAGE_TOO_BIG: (
                Reason.MESSAGE_SIZE,
                f"a message has more than {max_message_bytes} bytes; send the audio in smaller messages",
            ),
            WSCloseCode.INVALID_TEXT: (Reason.PROTOCOL, "Wrong protocol: a text message is not UTF-8"),
            WSCloseCode.PROTOCOL_ERROR: (Reason.PROTOCOL, "Wrong protocol: a frame breaks the rules of WebSockets"),
        }

    async def receive(self, timeout: float | None = None) -> Any:
        """Return the next message that is not a ping or a pong, when the budget of frames allows it.

        After every frame other connections are served, even if the next frame has arrived.

        Raises:
            ClientError: pings and empty frames exceeded the budget for too long.
        """
        while True:
            message = await super().receive(timeout)
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.PING, WSMsgType.PONG):
                return message
            is_data = message.type in (WSMsgType.TEXT, WSMsgType.BINARY)
            is_useful = is_data and bool(message.data)
            await self._pace.wait(1 if is_useful else EMPTY_FRAMES, is_useful)
            if is_data:
                return message
            if message.type is WSMsgType.PING and not self.closed:
                await self.pong(message.data)

    async def send_str(self, data: str, compress: int | None = None) -> None:
        """Send a text message; do nothing if a message of the client could not be read."""
        if self.read_error is None:
            await super().send_str(data, compress)

    async def close(self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True) -> bool:
        """Close the WebSocket. If a message cannot be read, aiohttp calls this method with the code of the error."""
        if code in self._read_errors and self.read_error is None and not self.closed:
            reason, text = self._read_errors[code]
            self.read_error = ClientError(reason, text, code)
            try:
                await super().send_str(self._write_error(text))
                await self.send_frame(struct.pack("!H", code) + self.read_error.close_reason, WSMsgType.CLOSE)
                await self._linger()
            except ConnectionError:
                pass
        return await super().close(code=code, message=message, drain=drain)

    def parse(self, parse: Callable[[], object]) -> None:
        """Call a function that parses a message, and charge its time to the connection's budget."""
        transport = self._request.transport
        fair = None if transport is None else transport.get_extra_info(FairProtocol.NAME)
        if fair is None:
            parse()
        else:
            fair.parse(parse)

    def abort(self) -> None:
        """Close the connection without a message."""
        if self._request.transport is not None:
            self._request.transport.abort()

    async def _linger(self) -> None:
        """Wait until the client closes the connection; aiohttp drops further data. Closing at once would reset the
        connection, and the client could lose the error message."""
        loop = asyncio.get_running_loop()
        end = loop.time() + LINGER_SECONDS
        while loop.time() < end and self._request.transport is not None and not self._request.transport.is_closing():
            await asyncio.sleep(_POLL_SECONDS)
