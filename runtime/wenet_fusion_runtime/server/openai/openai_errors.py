"""Errors in the form of OpenAI's protocols."""

from __future__ import annotations

from typing import Any

from wenet_fusion_runtime.server.errors import ClientError, Reason

INVALID_REQUEST, SERVER_ERROR = "invalid_request_error", "server_error"
_SERVERS = (Reason.INTERNAL, Reason.FULL, Reason.PROGRESS, Reason.SHUTDOWN)  # problems of the server


def error_record(error: ClientError) -> dict[str, Any]:
    """Return the JSON object `error` of a response or an event.

    >>> error_record(ClientError(Reason.TOKEN, "a token is needed"))["code"]
    'invalid_api_key'
    """
    return {
        "message": error.message,
        "type": SERVER_ERROR if error.reason in _SERVERS else INVALID_REQUEST,
        "param": None,
        "code": "invalid_api_key" if error.reason is Reason.TOKEN else error.reason.value,
    }
