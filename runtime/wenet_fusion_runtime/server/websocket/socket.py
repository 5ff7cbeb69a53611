"""A WebSocket whose client is told why what it sent breaks the connection. Knows no protocol but WebSocket's own."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable

from aiohttp import WSCloseCode, WSMsgType, web

from wenet_fusion_runtime.server.errors import Reason, Refusal

CLOSE_SECONDS = 5.0  # for the client's answer when the server closes
LINGER_SECONDS = 2.0  # for a client that is still sending to read why it should not
_POLL_SECONDS = 0.05


class WebSocket(web.WebSocketResponse):
    """As aiohttp's, but that one closes without a word when a message is too large or no message at all.

    Args:
        request: that is upgraded.
        max_message_bytes: of a message.
        explain: writes the text message that tells a client what is wrong.
    """

    def __init__(self, request: web.Request, max_message_bytes: int, explain: Callable[[str], str]) -> None:
        # aiohttp refuses messages of the very size that it is given. No compression: a small message could become a
        # large one. No buffer of its own before a send waits for the client.
        super().__init__(timeout=CLOSE_SECONDS, max_msg_size=max_message_bytes + 1, writer_limit=0, compress=False)
        self.fault: Refusal | None = None
        self._request = request
        self._explain = explain
        self._faults = {
            WSCloseCode.MESSAGE_TOO_BIG: (
                Reason.MESSAGE_SIZE,
                f"a message has more than {max_message_bytes} bytes; send the audio in smaller ones",
            ),
            WSCloseCode.INVALID_TEXT: (Reason.PROTOCOL, "Wrong protocol: a text message is no UTF-8"),
            WSCloseCode.PROTOCOL_ERROR: (Reason.PROTOCOL, "Wrong protocol: a frame breaks the rules of WebSockets"),
        }

    async def send_str(self, data: str, compress: int | None = None) -> None:
        if self.fault is None:  # nothing follows a fault
            await super().send_str(data, compress)

    async def close(self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True) -> bool:
        """aiohttp calls it with one of the codes of faults when what comes cannot be read."""
        if code in self._faults and self.fault is None and not self.closed:
            reason, text = self._faults[code]
            self.fault = Refusal(reason, text, code)
            try:
                await super().send_str(self._explain(text))
                await self.send_frame(struct.pack("!H", code) + self.fault.close_reason, WSMsgType.CLOSE)
                await self._linger()
            except ConnectionError:
                pass
        return await super().close(code=code, message=message, drain=drain)

    def abort(self) -> None:
        """Close without a word: the client takes none."""
        if self._request.transport is not None:
            self._request.transport.abort()

    async def _linger(self) -> None:
        """aiohttp throws away what is still coming. To close now would reset the connection, and the client could lose
        the message before it."""
        loop = asyncio.get_running_loop()
        end = loop.time() + LINGER_SECONDS
        while loop.time() < end and self._request.transport is not None and not self._request.transport.is_closing():
            await asyncio.sleep(_POLL_SECONDS)
