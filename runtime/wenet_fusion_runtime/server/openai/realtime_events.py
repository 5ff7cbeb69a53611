"""Parse the client's events and write the server's events of realtime transcription sessions."""

from __future__ import annotations

import base64
import json
import uuid
from typing import Any, NamedTuple

from wenet_fusion_runtime.server.errors import NORMAL, ClientError, Reason
from wenet_fusion_runtime.server.openai.openai_errors import error_record
from wenet_fusion_runtime.server.session_options import MAX_TEXT

APPEND, COMMIT, CLEAR = "input_audio_buffer.append", "input_audio_buffer.commit", "input_audio_buffer.clear"
UPDATE = "session.update"
MOST_MARKS = 64  # most quotes, commas and brackets in a message longer than MAX_TEXT; base64 audio has none
MAX_EVENT_ID = 512  # characters


class ClientEvent(NamedTuple):
    """An event of the client."""

    kind: str  # APPEND, COMMIT, CLEAR or UPDATE
    event_id: str | None = None
    audio: bytes = b""  # audio of an APPEND
    session: Any = None  # options of an UPDATE


class BadEvent(Exception):
    """An event cannot be used, but the session goes on.

    Args:
        error: the problem.
        event_id: id of the event; None if it has none.
    """

    def __init__(self, error: ClientError, event_id: str | None = None) -> None:
        super().__init__(error.message)
        self.error, self.event_id = error, event_id


def check_length(text: str) -> None:
    """Raise ClientError for a long message that is not mainly audio, because parsing it could take long."""
    if len(text) > MAX_TEXT and sum(map(text.count, '",[{')) > MOST_MARKS:
        raise ClientError(
            Reason.MESSAGE_SIZE, f"an event of more than {MAX_TEXT} bytes is not mainly audio; send less in one event"
        )


def parse_event(text: str) -> ClientEvent:
    """Parse an event of the client.

    Raises:
        BadEvent: the event cannot be used.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        raise _bad("the message is not JSON") from None
    if not isinstance(record, dict) or not isinstance(kind := record.get("type"), str):
        raise _bad('an event is an object with a text "type"')
    event_id = record.get("event_id")
    if not (isinstance(event_id, str) and event_id.isascii() and len(event_id) <= MAX_EVENT_ID):
        event_id = None
    if kind == APPEND:
        audio = record.get("audio")
        if not isinstance(audio, str):
            raise _bad('the event has no string "audio"', event_id)
        try:
            return ClientEvent(kind, event_id, base64.b64decode(audio, validate=True))
        except ValueError:
            raise _bad("audio is not valid base64", event_id) from None
    if kind == UPDATE:
        return ClientEvent(kind, event_id, session=record.get("session"))
    if kind in (COMMIT, CLEAR):
        return ClientEvent(kind, event_id)
    raise _bad(f"the type '{kind}' is not one of {APPEND}, {COMMIT}, {CLEAR}, {UPDATE}", event_id)


def _bad(message: str, event_id: str | None = None) -> BadEvent:
    return BadEvent(ClientError(Reason.PROTOCOL, message, NORMAL), event_id)


def new_id(kind: str) -> str:
    """Return a new unique id that begins with `kind`, e.g. "item"."""
    return f"{kind}_{uuid.uuid4().hex[:21]}"


def event(kind: str, **fields: Any) -> str:
    """Return an event of the server.

    >>> json.loads(event("input_audio_buffer.cleared"))["type"]
    'input_audio_buffer.cleared'
    """
    record = {"type": kind, "event_id": new_id("event"), **fields}
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"))


def error_event(error: ClientError, event_id: str | None = None) -> str:
    """Return the event of an error.

    Args:
        error: the problem.
        event_id: id of the client's event that caused the error.
    """
    return event("error", error=error_record(error) | {"event_id": event_id})
