"""Options of an upload, from its query or its form."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wenet_fusion_runtime.audio.resampling import MAX_CHANNELS
from wenet_fusion_runtime.console import SHOWN, visible
from wenet_fusion_runtime.results.formats import FORMATS, JSON
from wenet_fusion_runtime.server.session_options import SessionOptions, option_error, parse_options
from wenet_fusion_runtime.stream.endpoints import EndpointRules

KEYS = ("format", "stream", "nbest", "channel", "chunk", "left", "hot_words", "context", "endpoint", "grammar")


@dataclass(frozen=True)
class UploadOptions:
    """Options of an upload.

    >>> UploadOptions(SessionOptions(nbest=2), output_format="srt", is_streamed=False).session.nbest
    2
    """

    session: SessionOptions
    output_format: str  # one of FORMATS
    is_streamed: bool  # send results while the file is being recognised
    channel: int | None = None  # see AudioReader


def parse_upload_options(fields: Mapping[str, str], rules: EndpointRules, keys: Sequence[str] = KEYS) -> UploadOptions:
    """Parse the options of a query or a form, whose values are JSON or plain text.

    Args:
        fields: names and values.
        rules: endpoint rules of files, for the rules that `fields` leaves out.
        keys: names for the message about an unknown option.
    Raises:
        ClientError: an option is unknown or its value is invalid.
    """
    given = {name: _value(text) for name, text in fields.items()}
    if not isinstance(given.get("context", ""), str):
        given["context"] = fields["context"]  # a text that is also valid JSON, e.g. 2026
    if not isinstance(given.get("grammar", ""), (str, list)):
        given["grammar"] = fields["grammar"]
    for name in ("sample_rate", "continuous_decoding", "timestamps", "signal"):
        if name in given:
            raise option_error(f"{name} does not apply to a file; leave it out")
    if unknown := [name for name in given if name not in KEYS]:
        raise option_error(f"unknown key '{visible(unknown[0], SHOWN)}'; the keys are {', '.join(keys)}")
    output_format, is_streamed = given.pop("format", JSON), given.pop("stream", False)
    channel = given.pop("channel", None)
    if channel is not None and (type(channel) is not int or not 0 <= channel <= MAX_CHANNELS):
        raise option_error(f"channel must be an integer from 0 to {MAX_CHANNELS}, found {_quoted(channel)}")
    if output_format not in FORMATS:
        raise option_error(f"format must be one of {', '.join(FORMATS)}, found {_quoted(output_format)}")
    if type(is_streamed) is not bool:
        raise option_error(f"stream must be true or false, found {_quoted(is_streamed)}")
    if is_streamed and output_format != JSON:
        raise option_error(f"stream=true goes with format={JSON} only, found {output_format}")
    return UploadOptions(parse_options(given, rules), output_format, is_streamed, channel)


def _quoted(value: object) -> str:
    return visible(json.dumps(value, ensure_ascii=False), SHOWN)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
