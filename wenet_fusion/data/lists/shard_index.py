"""The index beside a shard: key, transcript, position and duration of each utterance; it saves a scan of the tar."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from wenet_fusion_runtime.files import iterate_lines, parse_json, write_text

from wenet_fusion.data.lists.keys import key_problem
from wenet_fusion.data.sources import AudioSource, Utterance

_SUFFIX = ".index"


class IndexEntry(NamedTuple):
    """An utterance of a shard."""

    key: str
    text: str
    offset: int  # position of the audio in the tar, bytes
    size: int  # size of the audio, bytes
    seconds: float


def write_shard_index(tar: Path, entries: Iterable[IndexEntry]) -> None:
    """Write the index of a finished tar beside the tar; WeNet ignores the index."""
    head = {"tar_bytes": tar.stat().st_size}
    lines = [json.dumps(head), *(json.dumps(entry._asdict(), ensure_ascii=False) for entry in entries)]
    write_text(_place(tar), "".join(f"{line}\n" for line in lines))


def read_shard_index(tar: Path) -> list[Utterance] | None:
    """Return the utterances of a tar from its index; None if the index is missing, damaged or outdated."""
    place = _place(tar)
    try:
        status = os.stat(tar)
        if os.stat(place).st_mtime < status.st_mtime:
            return None
        head, *lines = map(parse_json, iterate_lines(place))
        if head != {"tar_bytes": status.st_size}:
            return None
        entries = [IndexEntry(**line) for line in lines]
        if any(key_problem(entry.key) for entry in entries):
            return None
    except (OSError, ValueError, TypeError):  # without a usable index the tar is scanned
        return None
    path = str(tar)
    return [Utterance(item.key, AudioSource(path, item.offset, item.size), item.text, item.seconds) for item in entries]


def _place(tar: Path) -> Path:
    return tar.with_name(tar.name + _SUFFIX)
