"""Answers in JSON, above all to HTTP requests that are refused. Knows no routes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from wenet_fusion_runtime.server.errors import Reason, Refusal

_STATUS = {
    Reason.TOKEN: 401,
    Reason.ORIGIN: 403,
    Reason.UPLOAD_TIME: 408,
    Reason.UPLOAD_SIZE: 413,
    Reason.INTERNAL: 500,
    Reason.FULL: 503,
    Reason.SHUTDOWN: 503,
}  # of the others 400
RETRY_SECONDS = 5


def json_response(
    record: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """An answer whose text is as it is written, not escaped."""
    return web.json_response(text=json.dumps(record, ensure_ascii=False), status=status, headers=headers)


def refusal_response(refusal: Refusal, text: str | None = None) -> web.Response:
    """Says why, in the form of the WebSocket's messages; `text` is what was recognised before."""
    status, headers = _STATUS.get(refusal.reason, 400), {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status == 503:
        headers["Retry-After"] = str(RETRY_SECONDS)
    record = {"status": "failed", "message": refusal.message} | ({} if text is None else {"text": text})
    return json_response(record, status, headers)
