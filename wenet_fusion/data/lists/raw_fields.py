"""Parse fields of raw lists: seconds, and NeMo's field names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wenet_fusion.data.lists.keys import key_of_path

LONGEST_SECONDS = 1e9  # latest position in a recording (30 years)
_TO_THE_END = -1  # value of an end or a duration that stands for the end of the audio


def from_nemo(record: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Convert NeMo's field names; if there is no key, path and offset (in milliseconds) become the key."""
    start, duration = number_of(record, "offset"), number_of(record, "duration")
    wav = record["audio_filepath"]
    key = key_of_path(wav, folder) if isinstance(wav, str) else ""
    renamed = {"text": "txt", "channel": "channel"}
    converted = {"wav": wav, **{ours: record[theirs] for theirs, ours in renamed.items() if theirs in record}}
    if start is not None:
        key = f"{key}-{round(1000 * start):08d}"
        converted |= {"start": start} if duration is None else {"start": start, "end": start + duration}
    elif duration is not None:
        converted["duration"] = duration
    return {**converted, "key": record.get("key", key)}


def number_of(record: dict[str, Any], name: str) -> float | None:
    """Return a field in seconds; None if it is absent, or if an end or duration is -1; ValueError if it is invalid."""
    value = record.get(name)
    if value is None or (name in ("end", "duration") and value == _TO_THE_END):
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= LONGEST_SECONDS:
        shown = json.dumps(value)[:80]
        raise ValueError(
            f"{name} must be a number of seconds, not negative and at most {LONGEST_SECONDS:g}, found {shown}"
        )
    return float(value)
