"""Read lists of shards for sequential reading: lists of tars, NeMo's tarred manifests, lhotse's Shar folders."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wenet_fusion_runtime.files import list_problems, parse_json, printable, read_lines

from wenet_fusion.data.lists.find_file import find_file
from wenet_fusion.data.sequential.byte_stream import COMMAND, is_elsewhere
from wenet_fusion.data.sequential.shar import shar_shards
from wenet_fusion.data.sequential.shards import Excerpt, NemoShard, Shard, TarShard, member_stem

# A range of numbers: {000..281}, or _OP_0..7_CL_ as NeMo writes it.
_RANGE = re.compile(r"(?:\{|_OP_)(\d+)\.\.(\d+)(?:\}|_CL_)")
_SUBSEGMENT = re.compile(r"-sub\d+$")  # NeMo's mark of several utterances in one member
_NEMO_TAR, _MAKER = "audio_{}.tar", "tools/data/make_shard_list.py"


@dataclass(frozen=True)
class SequentialConfig:
    """Settings of `data.data_type: sequential`.

    >>> SequentialConfig(lanes=0).problems()
    ['lanes: 0 must be at least 1']
    """

    lanes: int = 8  # shards read at the same time, over all ranks; best a multiple of the number of ranks
    shuffle_buffer: int = 4000  # utterances in memory from which batches are drawn, over all ranks
    retries: int = 5  # number of retries when a URL or command fails, after pauses of 1 s, 2 s, 4 s, ...
    allow_commands: bool = False  # run list lines of the form "pipe:COMMAND" as shell commands
    nemo_tars: str = ""  # tars of a NeMo manifest, e.g. s3://a/audio__OP_0..7_CL_.tar; empty: audio_N.tar beside it

    def problems(self) -> list[str]:
        """Return one message for each invalid value."""
        lowest = (("lanes", 1), ("shuffle_buffer", 2), ("retries", 0))
        return [
            f"{name}: {getattr(self, name)} must be at least {least}"
            for name, least in lowest
            if getattr(self, name) < least
        ]


def read_shards(data_list: str | Path, config: SequentialConfig) -> list[Shard]:
    """Return the shards of a corpus in order, without reading them.

    Args:
        data_list: a list of tars, one path, URL or "pipe:COMMAND" per line, where {000..099} stands for 100 numbers; a
            NeMo manifest whose lines have a shard_id; or a folder in lhotse's Shar format.
        config: whether commands may run, and where NeMo's tars are.

    Raises:
        OSError: there is no such list.
        ValueError: the list is empty or has wrong lines; the message lists them.
        ImportError: the folder needs lhotse, which is not installed.
    """
    path = Path(data_list)
    if path.is_dir():
        return list(shar_shards(path))
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such list; write it with {_MAKER}, or give a folder of Shar")
    lines = [(number, line.strip()) for number, line in enumerate(read_lines(path, "surrogateescape"), 1)]
    lines = [(number, line) for number, line in lines if line]
    if not lines:
        raise ValueError(f"{path}: lists no shards; write it with {_MAKER}")
    if lines[0][1].startswith("{"):
        return _nemo_shards(path, lines, config)
    problems: list[str] = []
    places: dict[str, int] = {}
    for number, line in lines:
        try:
            for place in _places(line, path.parent, config):
                if place in places:
                    raise ValueError(f"{printable(place)} is already in line {places[place]}")
                places[place] = number
        except (ValueError, OSError) as error:
            problems.append(f"{path}:{number}: {error}")
    if problems:
        raise ValueError(list_problems(problems))
    return [TarShard(place) for place in places]


def expand_numbers(text: str) -> Iterator[str]:
    """Yield the names that a name with ranges of numbers stands for.

    >>> list(expand_numbers("s3://corpus/shard_{008..010}.tar"))
    ['s3://corpus/shard_008.tar', 's3://corpus/shard_009.tar', 's3://corpus/shard_010.tar']
    >>> list(expand_numbers("audio__OP_0..1_CL_.tar"))
    ['audio_0.tar', 'audio_1.tar']
    """
    found = _RANGE.search(text)
    if found is None:
        yield text
        return
    width = len(found[1]) if found[1].startswith("0") else 0
    for number in range(int(found[1]), int(found[2]) + 1):
        yield from expand_numbers(f"{text[: found.start()]}{number:0{width}}{text[found.end() :]}")


def _places(line: str, folder: Path, config: SequentialConfig) -> Iterator[str]:
    if line.startswith("{"):
        raise ValueError("expected a shard, found JSON; is this a raw list? Then set data.data_type=raw")
    if line.startswith(COMMAND) and not config.allow_commands:
        raise ValueError(f"{printable(line[:80])}: set data.sequential.allow_commands=true to run commands of the list")
    for place in expand_numbers(line):
        yield place if is_elsewhere(place) else str(find_file(place, folder, "shard"))


def _nemo_shards(path: Path, lines: Sequence[tuple[int, str]], config: SequentialConfig) -> list[Shard]:
    excerpts: dict[int, dict[str, list[Excerpt]]] = defaultdict(lambda: defaultdict(list))
    problems = []
    for number, line in lines:
        try:
            shard, stem, excerpt = _nemo_line(line)
            excerpts[shard][stem].append(excerpt)
        except (ValueError, KeyError, TypeError) as error:
            problems.append(f"{path}:{number}: {error}")
    if problems:
        raise ValueError(list_problems(problems))
    if config.nemo_tars:
        tars = list(expand_numbers(config.nemo_tars))
    else:
        tars = [str(path.parent / _NEMO_TAR.format(shard)) for shard in range(max(excerpts) + 1)]
    missing = [shard for shard in excerpts if shard >= len(tars)]
    if missing:
        raise ValueError(
            f"{path}: lists shard {missing[0]}, data.sequential.nemo_tars names only {len(tars)} tars; name all"
        )
    return [NemoShard(tars[shard], dict(excerpts[shard])) for shard in sorted(excerpts)]


def _nemo_line(line: str) -> tuple[int, str, Excerpt]:
    record: Any = parse_json(line)
    missing = [name for name in ("audio_filepath", "text", "shard_id") if name not in record]
    if missing:
        raise ValueError(f"no {', '.join(missing)} in {line[:80]}; for a list without tars, set data.data_type=raw")
    stem = member_stem(record["audio_filepath"])
    start, duration = record.get("offset"), record.get("duration")
    end = None if start is None or duration is None else float(start) + float(duration)
    name = "_".join(stem.split())
    key = record.get("key", name if start is None else f"{name}-{round(1000 * start):08d}")
    excerpt = Excerpt(str(key), str(record["text"]), None if start is None else float(start), end)
    return int(record["shard_id"]), _SUBSEGMENT.sub("", stem), excerpt
