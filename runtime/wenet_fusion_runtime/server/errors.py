"""Errors that are reported to a client, with the reasons under which they are counted."""

from __future__ import annotations

from enum import Enum

from wenet_fusion_runtime.console import visible

NORMAL, GOING_AWAY, POLICY, TOO_BIG, INTERNAL, TRY_LATER = 1000, 1001, 1008, 1009, 1011, 1013  # RFC 6455, IANA
MAX_CLOSE_REASON = 123  # bytes, RFC 6455
MAX_MESSAGE = 1000  # characters of an error message, which may quote the client


class Reason(str, Enum):
    """Labels of client errors in the metrics."""

    PROTOCOL = "protocol"  # a message or request is malformed or out of order
    OPTION = "option"  # an option is unknown or its value is invalid
    SAMPLES = "samples"  # the audio cannot be decoded
    DECODER = "decoder"  # the decoder of an upload crashed, hung or needed too much memory
    PROGRESS = "progress"  # an upload waited too long for a decoder, or its recognition made no progress
    MESSAGE_SIZE = "message_size"
    UPLOAD_SIZE = "upload_size"
    UPLOAD_TIME = "upload_time"
    AUDIO_SECONDS = "audio_seconds"
    START = "start_deadline"
    IDLE = "idle"
    FLOOD = "flood"  # the client sends too many frames, events or small pieces
    SLOW_READER = "slow_reader"  # the client does not read what is sent
    FULL = "full"  # too many sessions or connections
    SHUTDOWN = "shutdown"
    TOKEN = "token"
    ORIGIN = "origin"
    HOST = "host"  # the header Host names another server
    INTERNAL = "internal"  # an error of the server


class ClientError(Exception):
    """Ends a request, connection or session; the client gets the message.

    Args:
        reason: label in the metrics.
        message: the problem and its remedy. Its lines are joined. Control characters are escaped, and so are
            surrogates, which UTF-8 cannot encode; text beyond MAX_MESSAGE characters is cut off.
        close_code: close code of the WebSocket.
    """

    def __init__(self, reason: Reason, message: str, close_code: int = POLICY) -> None:
        message = visible(" ".join(message.splitlines()), MAX_MESSAGE)
        super().__init__(message)
        self.reason, self.message, self.close_code = reason, message, close_code

    @property
    def close_reason(self) -> bytes:
        """The beginning of the message, cut between characters so that it fits into a WebSocket's close frame."""
        return self.message.encode()[:MAX_CLOSE_REASON].decode("utf-8", "ignore").encode()


def limit_reached(message: str) -> ClientError:
    """Return the error for a request above a limit on open sessions, connections or uploads."""
    return ClientError(Reason.FULL, f"{message}; try again later", TRY_LATER)


def shutting_down() -> ClientError:
    """Return the error for clients of a server that is shutting down."""
    return ClientError(Reason.SHUTDOWN, "the server is shutting down; connect again", GOING_AWAY)


def internal_error() -> ClientError:
    """Return the error for a failure of the server itself."""
    return ClientError(Reason.INTERNAL, "the server failed; the reason is in its log", INTERNAL)
