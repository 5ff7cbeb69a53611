"""JSON responses and error responses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from wenet_fusion_runtime.server.errors import ClientError, Reason

_STATUS = {
    Reason.TOKEN: 401,
    Reason.ORIGIN: 403,
    Reason.UPLOAD_TIME: 408,
    Reason.UPLOAD_SIZE: 413,
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
        error: its reason sets the status.
        text: what was recognised before the error.
    """
    status, headers = _STATUS.get(error.reason, 400), {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status == 503:
        headers["Retry-After"] = str(RETRY_SECONDS)
    record = {"status": "failed", "message": error.message} | ({} if text is None else {"text": text})
    return json_response(record, status, headers)
