#!/usr/bin/env python3
"""Pack a Hugging Face dataset into tar shards with unchanged audio and normalised text, and list the shards.

Example: python tools/data/make_hf_shards.py /corpora/minds14 data/train/shards data/train/data.list \\
    --split train --text transcription
"""

import argparse
import itertools
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from corpus_arguments import SPECIAL_TOKEN_HELP
from kaldi_corpus import report_left_out
from make_shard_list import add_member
from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.files import replacing, write_text
from wenet_fusion_runtime.results.normalization import normalize_text

from wenet_fusion.data.lists.keys import key_problem
from wenet_fusion.data.lists.manifest import AUDIO_SUFFIXES
from wenet_fusion.data.lists.shard_index import IndexEntry, write_shard_index
from wenet_fusion.data.progress_bar import progress_bar
from wenet_fusion.data.sources import AudioHeader, AudioSource, Utterance, header_or_problem
from wenet_fusion.text.special_tokens import SPECIAL_TOKEN_CHOICES, find_special_tokens, remove_special_tokens

_SAVED = ("dataset_dict.json", "dataset_info.json")  # files that `save_to_disk` writes
_SUFFIXES = {b"fLaC": ".flac", b"OggS": ".ogg", b"RIFF": ".wav", b"ID3\x03": ".mp3"}  # by the first bytes of a file


class Columns(NamedTuple):
    """Names of a dataset's columns."""

    audio: str
    text: str
    key: str  # empty: the keys are row numbers


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "dataset", help="folder of a dataset (save_to_disk, Parquet, audiofolder), or its name on the Hub"
    )
    parser.add_argument("shards_dir", type=Path, help="folder for the shards")
    parser.add_argument("output", type=Path, help="list of shards to write")
    parser.add_argument("--split", help="split of the dataset, such as train; not needed if it has only one")
    parser.add_argument("--config", help="configuration of the dataset, if it has several")
    parser.add_argument("--audio", default="audio", help="column with the audio (default: audio)")
    parser.add_argument("--text", default="text", help="column with the transcripts (default: text)")
    parser.add_argument("--key", default="", help="column with the keys; by default the keys are row numbers")
    parser.add_argument("--num_utts_per_shard", type=int, default=1000, help="utterances per shard (default: 1000)")
    parser.add_argument("--prefix", default="shards", help="beginning of the shards' names (default: shards)")
    parser.add_argument("--special_tokens", choices=SPECIAL_TOKEN_CHOICES, default="refuse", help=SPECIAL_TOKEN_HELP)
    parser.add_argument("--allow_missing", action="store_true", help="leave out rows without readable audio or text")
    args = parser.parse_args(arguments)
    if args.num_utts_per_shard < 1:
        raise ValueError(f"--num_utts_per_shard {args.num_utts_per_shard} must be at least 1")
    columns = Columns(args.audio, args.text, args.key)
    rows = open_rows(args.dataset, args.config, args.split, columns)
    args.shards_dir.mkdir(parents=True, exist_ok=True)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    left_out: list[str] = []
    shards, count, seconds = [], 0, 0.0
    with progress_bar(None, None, "shards", "utt") as progress:
        found = utterances_of(rows, columns, args.special_tokens, left_out)
        for number in itertools.count():
            path = args.shards_dir.absolute() / f"{args.prefix}_{number:09d}.tar"
            entries = write_shard(path, itertools.islice(found, args.num_utts_per_shard))
            if not entries:
                path.unlink()
                break
            shards.append(path)
            count, seconds = count + len(entries), seconds + sum(entry.seconds for entry in entries)
            progress.update(len(entries))
    report_left_out(left_out, args.allow_missing)
    if not shards:
        raise ValueError(f"{args.dataset}: has no usable row")
    write_text(args.output, "".join(f"{path}\n" for path in shards))
    print(f"{args.output}: {count} utterances, {seconds / 3600:.2f} h in {len(shards)} shard{'s' * (len(shards) != 1)}")
    return 0


def open_rows(dataset: str, config: str | None, split: str | None, columns: Columns) -> Iterator[dict[str, Any]]:
    """Return the rows of a dataset with undecoded audio; rows are read one by one, without a cache.

    Raises:
        ImportError: the package `datasets` is not installed.
        ValueError: the dataset cannot be opened, or lacks the split or a column.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError(f"{dataset}: needs datasets ({error}): pip install 'wenet-fusion[huggingface]'") from error
    try:
        if any((Path(dataset) / name).is_file() for name in _SAVED):
            found = datasets.load_from_disk(dataset)
        else:
            found = datasets.load_dataset(dataset, config, streaming=True)
    except Exception as error:  # pyarrow, fsspec, httpx and others raise their own types
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{dataset}: cannot be opened as a dataset ({reason})") from error
    if isinstance(found, dict):
        name = split or (next(iter(found)) if len(found) == 1 else "")
        if name not in found:
            raise ValueError(f"{dataset}: give its split with --split, one of {', '.join(found)}")
        found = found[name]
    known = found.column_names or list(next(iter(found), {}))
    for option, column in columns._asdict().items():
        if column and column not in known:
            raise ValueError(f"{dataset}: has no column {column!r}; give --{option}, one of {', '.join(known)}")
    rows: Iterator[dict[str, Any]] = iter(found.cast_column(columns.audio, datasets.Audio(decode=False)))
    return rows


def utterances_of(
    rows: Iterator[dict[str, Any]], columns: Columns, special_tokens: str, left_out: list[str]
) -> Iterator[Utterance]:
    """Yield usable rows as utterances with audio and duration; append "KEY: REASON" for other rows to `left_out`.

    Raises:
        ValueError: a transcript has special tokens that are refused.
    """
    changed = 0
    seen: set[str] = set()
    for number, row in enumerate(rows):
        key, text, audio = (
            str(row[columns.key]) if columns.key else f"{number:09d}",
            row[columns.text],
            row[columns.audio],
        )
        problem = key_problem(key) or ("key is there twice" if key in seen else "")
        seen.add(key)
        if problem or not isinstance(text, str) or audio is None:
            left_out.append(f"{key}: {problem or 'has no ' + ('audio' if isinstance(text, str) else 'transcript')}")
            continue
        normal = normalize_text(text)
        if special_tokens == "remove":
            normal = remove_special_tokens(normal)
        elif special_tokens == "refuse" and (marks := find_special_tokens(normal)):
            raise ValueError(
                f"row {number}: {key} holds {', '.join(marks)}; choose with --special_tokens: remove, keep or spell"
            )
        changed += normal != text
        path = audio["path"] or key
        try:
            content = audio["bytes"] or Path(path).read_bytes()
        except OSError as error:
            left_out.append(f"{key}: {error}")
            continue
        utterance = Utterance(key, AudioSource(path, content=content), normal, 0.0)
        header = header_or_problem(utterance)
        if isinstance(header, AudioHeader):
            yield Utterance(key, utterance.source, normal, header.seconds)
        else:
            left_out.append(f"{key}: {header}")
    if changed:
        print(f"note: {changed} transcripts were normalised or lost special tokens", file=sys.stderr)


def write_shard(path: Path, utterances: Iterator[Utterance]) -> list[IndexEntry]:
    """Write text and audio of every utterance to one tar, and its index file. Return the entries of the index."""
    entries = []
    with replacing(path) as temporary, tarfile.open(temporary, "w") as tar:
        for utterance in utterances:
            content = utterance.source.content or b""
            suffix = Path(utterance.source.path).suffix.lower()
            if suffix not in AUDIO_SUFFIXES:
                suffix = _SUFFIXES.get(content[:4], ".wav")
            add_member(tar, f"{utterance.key}.txt", utterance.text.encode("utf-8"))
            offset = add_member(tar, f"{utterance.key}{suffix}", content)
            entries.append(IndexEntry(utterance.key, utterance.text, offset, len(content), utterance.seconds))
    if entries:
        write_shard_index(path, entries)
    return entries


if __name__ == "__main__":
    run_main(main)
