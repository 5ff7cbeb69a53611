"""Read data lists (raw, shards, lhotse), and report every problem with its line."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from wenet_fusion_runtime.audio.sample_formats import MAX_CHANNELS
from wenet_fusion_runtime.console import error_text
from wenet_fusion_runtime.files import iterate_lines, list_problems, parse_json, printable

from wenet_fusion.data.judgement import Skip
from wenet_fusion.data.lists.find_file import find_file
from wenet_fusion.data.lists.keys import key_problem
from wenet_fusion.data.lists.lhotse_cuts import is_lhotse, iterate_cuts
from wenet_fusion.data.lists.raw_fields import from_nemo, number_of
from wenet_fusion.data.lists.shard_index import read_shard_index
from wenet_fusion.data.lists.whole_tar import WholeTarInfo
from wenet_fusion.data.sources import SEGMENT_TOLERANCE, AudioHeader, AudioSource, Utterance, read_headers
from wenet_fusion.data.utterance_table import UtteranceTable

ListType = Literal["raw", "shard", "lhotse"]
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".webm", ".wma", ".spx", ".amr", ".aiff")
LONGEST_STATED_SECONDS = 86400.0  # longer durations are not trusted: the audio's header is read
_NOT_UTF8 = re.compile("[\ud800-\udfff]")  # surrogates, which stand for bytes that are not UTF-8
_MAKERS = "tools/data/make_raw_list.py or tools/data/make_shard_list.py"
_LHOTSE_MAKER = "lhotse, such as `lhotse prepare CORPUS ...`"


class Listed(NamedTuple):
    """Usable utterances of a list, or of one of its lines, and messages about the others."""

    utterances: Sequence[Utterance]
    problems: list[str]


def read_table(data_list: str | Path, data_type: ListType | Literal["auto"] = "auto") -> UtteranceTable:
    """Read all utterances of a data list like `read_manifest`, in columns; durations that are not stated are 0.0.

    Raises:
        FileNotFoundError, ValueError: see `read_manifest`.
    """
    table, problems = read_columns(data_list, data_type)
    if problems:
        raise ValueError(list_problems(problems))
    return table


def read_manifest(data_list: str | Path, data_type: ListType | Literal["auto"] = "auto") -> list[Utterance]:
    """Read all utterances of a data list in its order.

    Relative paths start at the list's folder, or, as in WeNet, at the working directory. Paths need not be UTF-8.

    Args:
        data_list: the list.
        data_type: "raw" for a JSON object per line, {"key", "wav", "txt"} with optional "start", "end", "duration"
            (seconds; an end of -1 is the end of the audio), "speaker" and "channel" (from 1), or NeMo's
            {"audio_filepath", "text"} with optional "offset", "duration" and "key". Without "key", the path below the
            list's folder and the offset become the key.
            "shard" for the path of a tar per line, with members key.txt and key.wav (or another of AUDIO_SUFFIXES).
            "lhotse" for a CutSet (*.jsonl.gz), or for supervisions with the recordings beside them.
            "auto" looks at the name and the first line.

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: lines or members of a tar are wrong; the message lists them.
    """
    return _fill_seconds(read_table(data_list, data_type))


def scan_manifest(data_list: str | Path, data_type: ListType | Literal["auto"] = "auto") -> Listed:
    """Read the usable utterances of a data list like `read_manifest`, and report the others in the result.

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: no utterance is usable.
    """
    table, problems = read_columns(data_list, data_type)
    if not table:
        raise ValueError(list_problems(problems))
    return Listed(_fill_seconds(table), problems)


def read_columns(data_list: str | Path, data_type: ListType | Literal["auto"]) -> tuple[UtteranceTable, list[str]]:
    """Return the usable utterances of a data list, and the problems of its other lines.

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: the list is empty or a folder, or a lhotse manifest is damaged or of another kind.
    """
    path = Path(data_list)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such list; {_remedy(path)}")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; if it holds lhotse's Shar, set data.data_type=sequential")
    problems: list[str] = []
    table = UtteranceTable()
    first_place: dict[str, str] = {}
    for place, found, wrong in _entries(path, data_type):
        problems += [f"{place}: {problem}" for problem in wrong]
        for utterance in found:
            first = first_place.setdefault(utterance.key, place)
            if first != place:
                problems.append(f'{place}: key {utterance.key!r} is already in {first}; give each its own "key"')
                continue
            table.append(utterance, place)
    if not table and not problems:
        raise ValueError(f"{path}: lists no utterances; {_remedy(path)}")
    return table, problems


def _remedy(path: Path) -> str:
    """Say what writes a list with this name."""
    return f"write it with {_LHOTSE_MAKER if path.name.endswith('.jsonl.gz') else _MAKERS}"


def _entries(
    path: Path, data_type: ListType | Literal["auto"]
) -> Iterator[tuple[str, Sequence[Utterance], Sequence[str]]]:
    """Yield the entries of a list: place, utterances and problems of each."""
    name = printable(path)
    if data_type == "lhotse" or (data_type == "auto" and is_lhotse(path)):
        for number, found in enumerate(iterate_cuts(path), 1):
            place = f"{name} (utterance {number})"
            yield (place, [], [str(found)]) if isinstance(found, Skip) else (place, [found], [])
        return
    folder = path.parent
    for number, line in enumerate(iterate_lines(path, "surrogateescape"), 1):
        line = line.strip()
        if not line:
            continue
        if data_type == "auto":
            data_type = "raw" if line.startswith("{") else "shard"
        parse = _parse_line if data_type == "raw" else _index_shard
        yield (f"{name}:{number}", *parse(line, folder))


def _fill_seconds(utterances: Sequence[Utterance]) -> list[Utterance]:
    """Read missing durations from the audio's headers; they stay 0.0 if a header cannot be read."""
    headers = iter(read_headers([utterance for utterance in utterances if not utterance.seconds]))
    filled = []
    for utterance in utterances:
        header = None if utterance.seconds else next(headers)
        if isinstance(header, AudioHeader):
            utterance = dataclasses.replace(utterance, seconds=header.seconds)
        filled.append(utterance)
    return filled


def _parse_line(line: str, folder: Path) -> Listed:
    try:
        return Listed([_parse_raw(line, folder)], [])
    except (ValueError, OSError) as error:
        return Listed([], [error_text(error)])


def _parse_raw(line: str, folder: Path) -> Utterance:
    try:
        record = parse_json(line)
    except ValueError as error:
        if _NOT_UTF8.search(line):
            raise ValueError(f"not UTF-8 text: {printable(line[:80])}") from error
        hint = "; is this a list of shards? Then set data.data_type=shard" if line.endswith(".tar") else ""
        raise ValueError(f"not valid JSON ({error}){hint}") from error
    if not isinstance(record, dict):
        raise ValueError(f"expected a JSON object with key, wav and txt, found {line[:80]}")
    if "audio_filepath" in record:
        record = from_nemo(record, folder)
    if missing := [name for name in ("key", "wav", "txt") if name not in record]:
        raise ValueError(f"no {', '.join(missing)} in {line[:80]}")
    for name in ("key", "wav", "txt", "speaker"):
        value = record.get(name, "")
        if not isinstance(value, str):
            raise ValueError(f"{name} must be a string, found {json.dumps(value)[:80]}")
        if name != "wav" and not value.isascii() and _NOT_UTF8.search(value):
            raise ValueError(f"{name} {printable(value)!r} is not UTF-8 text; convert the list")
        if "\0" in value:
            raise ValueError(f"{name} {value[:80]!r} holds a NUL character; take it out")
    if problem := key_problem(record["key"]):
        raise ValueError(problem)
    start, end, duration = number_of(record, "start"), number_of(record, "end"), number_of(record, "duration")
    if end is not None and end <= (start or 0.0):
        raise ValueError(f"end {end} must come after start {start or 0.0}")
    if end is not None:
        segment = end - (start or 0.0)
        duration = duration if duration and abs(duration - segment) <= SEGMENT_TOLERANCE else segment
    is_stated = duration is not None and 0 < duration <= LONGEST_STATED_SECONDS
    # Files with an absolute path and a duration are not looked for before they are loaded: 281,000 checks take long.
    is_trusted = is_stated and os.path.isabs(record["wav"])
    source = AudioSource(record["wav"] if is_trusted else str(find_file(record["wav"], folder, "audio file")))
    channel = record.get("channel")
    if channel is not None and (type(channel) is not int or not 0 <= channel <= MAX_CHANNELS):
        raise ValueError(f"channel must be 1 to {MAX_CHANNELS}, or 0 for the mean, found {json.dumps(channel)}")
    seconds = duration if duration is not None and is_stated else 0.0
    return Utterance(record["key"], source, record["txt"], seconds, start, end, record.get("speaker"), channel)


def _index_shard(line: str, folder: Path) -> Listed:
    """Index the utterances of a tar in its order; each problem names the tar and the member.

    A bad member costs only its own utterance. In a damaged tar, the utterances before the damage stay usable.
    """
    if "://" in line or line.startswith("pipe:"):
        remedy = "set data.data_type=sequential to read it without an index, or download it and list its path"
        return Listed([], [f"{line}: is not a file, and only files can be indexed; {remedy}"])
    if line.startswith("{"):
        return Listed([], ["expected the path of a shard, found JSON; is this a raw list? Then set data.data_type=raw"])
    try:
        tar_path = find_file(line, folder, "shard")
    except (ValueError, OSError) as error:
        return Listed([], [str(error)])
    if (indexed := read_shard_index(tar_path)) is not None:
        return Listed(indexed, [])
    shard = printable(tar_path)
    texts: dict[str, str] = {}
    sources: dict[str, AudioSource] = {}
    problems: dict[str, str] = {}  # unusable keys and their reasons
    key, member_name = "", "the beginning"
    try:
        with tarfile.open(tar_path, "r:", tarinfo=WholeTarInfo) as tar:
            for member in tar:
                member_name = member.name
                name = PurePosixPath(member.name)
                key = str(name.with_suffix(""))
                content = tar.extractfile(member) if member.isfile() else None
                if content is not None and name.suffix == ".txt":
                    try:
                        texts[key] = content.read().decode("utf-8").strip()
                    except UnicodeDecodeError:
                        problems[key] = f"{shard}: member {member.name} is not UTF-8 text"
                elif content is not None and name.suffix.lower() in AUDIO_SUFFIXES:
                    if not member.size:
                        problems[key] = f"{shard}: member {member.name} is empty"
                    sources[key] = AudioSource(str(tar_path), member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:  # the audio of the last key may be cut off or missing
        problems[key] = f"{shard}: damaged after {member_name}, or not an uncompressed tar ({error})"
    for key in texts.keys() | sources.keys():
        if problem := key_problem(key):
            problems[key] = f"{shard}: {problem}"
    usable = texts.keys() & sources.keys() - problems.keys()
    wanted = "|".join(suffix[1:] for suffix in AUDIO_SUFFIXES)
    explained = usable | problems.keys()
    for key in (key for key in (*texts, *sources) if key not in explained):
        without_audio = f"member {key}.txt has no audio {key}.({wanted})"
        problems[key] = f"{shard}: {without_audio if key in texts else f'audio of {key!r} has no member {key}.txt'}"
    if not texts and not problems:
        problems[""] = f"{shard}: holds no pairs of key.txt and key.wav"
    utterances = [Utterance(key, sources[key], texts[key], 0.0) for key in texts if key in usable]
    return Listed(utterances, list(problems.values()))
