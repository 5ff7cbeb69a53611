"""Why a client is refused, or cut off. Knows no sockets."""

from __future__ import annotations

from enum import Enum

NORMAL, GOING_AWAY, POLICY, TOO_BIG, INTERNAL, TRY_LATER = 1000, 1001, 1008, 1009, 1011, 1013  # RFC 6455, IANA
MAX_CLOSE_REASON = 123  # bytes, RFC 6455 too


class Reason(str, Enum):
    """The labels by which refusals are counted."""

    PROTOCOL = "protocol"  # messages that are malformed or come in a wrong order
    OPTION = "option"  # options with unknown names or wrong values
    SAMPLES = "samples"  # audio that is no audio
    MESSAGE_SIZE = "message_size"
    UPLOAD_SIZE = "upload_size"
    UPLOAD_TIME = "upload_time"
    AUDIO_SECONDS = "audio_seconds"
    START = "start_deadline"
    IDLE = "idle"
    SLOW_READER = "slow_reader"  # takes nothing of what is sent to it
    FULL = "full"  # too many sessions or connections
    SHUTDOWN = "shutdown"
    TOKEN = "token"
    ORIGIN = "origin"
    INTERNAL = "internal"  # our own mistakes


class Refusal(Exception):
    """Ends what a client has begun, or does not let it begin.

    Args:
        reason: what it is counted by.
        message: tells the client what is wrong and what to do. What no UTF-8 can say is replaced: JSON allows halves of
            surrogate pairs in what a client sends and a message repeats.
        close_code: of the WebSocket.
    """

    def __init__(self, reason: Reason, message: str, close_code: int = POLICY) -> None:
        message = message.encode("utf-8", "backslashreplace").decode("utf-8")
        super().__init__(message)
        self.reason, self.message, self.close_code = reason, message, close_code

    @property
    def close_reason(self) -> bytes:
        """As much of the message as a WebSocket's close frame takes, without half a letter at its end: clients would call
        that a broken frame."""
        return self.message.encode()[:MAX_CLOSE_REASON].decode("utf-8", "ignore").encode()
