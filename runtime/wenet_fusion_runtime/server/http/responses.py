"""JSON responses and error responses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from wenet_fusion_runtime.server.errors import ClientError, Reason

# The page loads scripts, styles and pictures from its own server only, and connects to it only.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "media-src 'self' blob:; connect-src 'self'; worker-src 'self'; manifest-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {  # common to all responses
    "Server": "wenet-fusion-runtime",  # aiohttp's default shows its version and Python's
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # a URL may contain a token
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_STATUS = {
    Reason.TOKEN: 401,
    Reason.ORIGIN: 403,
    Reason.UPLOAD_TIME: 408,
    Reason.UPLOAD_SIZE: 413,
    Reason.HOST: 421,
    Reason.INTERNAL: 500,
    Reason.FULL: 503,
    Reason.PROGRESS: 503,
    Reason.SHUTDOWN: 503,
}  # 400 for all other reasons
RETRY_SECONDS = 5


def json_response(
    record: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return a JSON response with non-ASCII characters unescaped."""
    return web.json_response(text=json.dumps(record, ensure_ascii=False), status=status, headers=headers)


def error_response(error: ClientError, text: str | None = None) -> web.Response:
    """Return the response for an error, in the form of the WebSocket's error message.

    Args:
        error: the error, whose reason sets the status.
        text: the text that was recognised before the error.
    """
    return failure(error, {"status": "failed", "message": error.message} | ({} if text is None else {"text": text}))


def error_status(error: ClientError) -> int:
    """Return the HTTP status of an error."""
    return _STATUS.get(error.reason, 400)


def failure(error: ClientError, record: Mapping[str, Any]) -> web.Response:
    """Return a record as the response for an error, with the status and the headers for the error's reason."""
    status, headers = error_status(error), {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status == 503:
        headers["Retry-After"] = str(RETRY_SECONDS)
    return json_response(record, status, headers)
