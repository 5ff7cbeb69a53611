"""Read utterances from Kaldi's wav.scp, text and segments, and report malformed or missing entries."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from kaldi_commands import run_commands
from wenet_fusion_runtime.audio.sample_formats import MAX_CHANNELS
from wenet_fusion_runtime.files import list_problems, printable
from wenet_fusion_runtime.results.normalization import normalization_note, normalize_text

from wenet_fusion.data.lists.kaldi import read_rows, read_table
from wenet_fusion.data.progress_bar import progress_bar
from wenet_fusion.data.sources import AudioHeader, AudioSource, Utterance, read_headers
from wenet_fusion.text.special_tokens import (
    SpecialTokens,
    count_special_tokens,
    find_special_tokens,
    remove_special_tokens,
)

LONG_LIST, _PART = 2000, 250  # from LONG_LIST utterances on, processes work on the list, _PART utterances at a time
TO_THE_END = -1.0  # Kaldi's mark for a segment that ends with its recording


class Corpus(NamedTuple):
    """The usable utterances of a Kaldi data folder, in the order of `text`, and why the others are left out."""

    utterances: list[Utterance]
    left_out: list[str]  # for each omitted utterance, a line with the reason


class Transcript(NamedTuple):
    """A transcript as it is written in a list."""

    key: str
    text: str
    place: str = ""  # list and line, if known


class Segment(NamedTuple):
    """The part of a recording that holds an utterance."""

    recording: str
    start: float  # seconds
    end: float | None  # None: the end of the recording
    channel: int | None = None  # from 1; None: not stated


def read_transcripts(path: Path, special_tokens: SpecialTokens = "refuse") -> dict[str, str]:
    """Read Kaldi's text and normalise it (`normalize_text`); print notes on changed transcripts and removed tokens.

    Args:
        path: lines "key transcript".
        special_tokens: how to treat special tokens such as `[noise]`: "refuse" raises an error, "remove" deletes them,
            other choices leave them in the transcripts.

    Raises:
        OSError: the file cannot be read.
        ValueError: keys occur twice, or transcripts hold special tokens that are refused; the message lists the first
            of them.
    """
    rows = read_rows(path)
    written = [Transcript(row.key, row.value, f"{path}:{row.line}") for row in rows]
    return dict(zip((row.key for row in rows), clean_transcripts(path, written, special_tokens)))


def clean_transcripts(path: Path, written: Sequence[Transcript], special_tokens: SpecialTokens) -> list[str]:
    """Normalise the transcripts of the list `path`; see `read_transcripts` for the treatment of special tokens."""
    if note := normalization_note({item.key: item.text for item in written}):
        print(f"note: {path}: {note}", file=sys.stderr)
    texts = [normalize_text(item.text) for item in written]
    if special_tokens == "remove":
        if counts := count_special_tokens(texts):
            print(f"note: {path}: special tokens were removed: {counts}", file=sys.stderr)
        return list(map(remove_special_tokens, texts))
    refused = [
        f"{item.place or path}: {item.key} holds {', '.join(found)}"
        for item, text in zip(written, texts)
        if special_tokens == "refuse" and (found := find_special_tokens(text))
    ]
    if refused:
        raise ValueError(
            f"{path}: {len(refused)} of {len(texts)} transcripts hold special tokens; choose with --special_tokens: "
            "remove leaves them out, keep makes each one token of the vocabulary, spell treats them like other text\n"
            + list_problems(refused)
        )
    return texts


def read_corpus(
    wav_scp: Path,
    text: Path,
    segments: Path | None = None,
    special_tokens: SpecialTokens = "refuse",
    channels: Path | None = None,
    num_workers: int = 1,
    commands_folder: Path | None = None,
) -> Corpus:
    """Read the files of a Kaldi data folder; audio paths are relative to the working directory and become absolute.

    Utterances without transcript, without audio or with an unreadable header are left out; see `report_left_out`.

    Args:
        wav_scp: lines "key path"; with `segments`, the keys are recordings. Paths need not be UTF-8.
        text: lines "key transcript".
        segments: lines "key recording start end", times in seconds; an end of -1 is the end of the recording. A fifth
            column may give the channel: A, B, or a number that counts from 0, as in Kaldi.
        special_tokens: see `read_transcripts`.
        channels: Kaldi's reco2file_and_channel, lines "recording file channel"; the channel is A, B or counts from 1.
            A recording without a line in `wav_scp` gets the path of its file's line.
        num_workers: number of processes that read headers; also the number of commands that run at the same time.
        commands_folder: run the commands in `wav_scp` and store their audio in this folder; None: refuse commands.

    Raises:
        OSError: a file cannot be read.
        ValueError: lines are malformed (the message lists the first of them), or no utterance is usable.
    """
    transcripts = read_transcripts(text, special_tokens)
    recordings = {row.key: row.value for row in read_rows(wav_scp, "surrogateescape")}
    problems = [f"{wav_scp}: {key} has no path" for key, path in recordings.items() if not path]
    commands = {key: path for key, path in recordings.items() if path.endswith("|")}
    if commands_folder is None:
        problems += [
            f"{wav_scp}: {key} is a command ({path}); run it and list the file that it makes, or give --allow_commands "
            "if you trust the list"
            for key, path in commands.items()
        ]
    cuts: dict[str, Segment] | None = None
    if segments is not None:
        cuts = _read_segments(segments, problems)
    channel_of = {} if channels is None else _read_channels(channels, recordings, problems)
    if problems:
        raise ValueError(list_problems(problems))

    failed: dict[str, str] = {}
    if commands and commands_folder is not None:
        made, failed = run_commands(commands, commands_folder, num_workers)
        recordings |= made
    audio_list = segments or wav_scp
    known = recordings if cuts is None else cuts
    left_out = [f"{key}: has no audio in {audio_list}" for key in transcripts if key not in known]
    left_out += [f"{key}: has no transcript in {text}" for key in known if key not in transcripts]
    utterances = []
    for key, transcript in transcripts.items():
        if key not in known:
            continue
        recording, start, end, channel = (key, None, None, None) if cuts is None else cuts[key]
        if recording not in recordings:
            left_out.append(f"{key}: its recording {recording} is not in {wav_scp}")
            continue
        if recording in failed:
            left_out.append(f"{key}: {wav_scp}: {failed[recording]}")
            continue
        path = os.path.abspath(recordings[recording])
        if not os.path.isfile(path):
            left_out.append(f"{key}: there is no audio file {printable(path)}")
            continue
        channel = channel_of.get(recording) if channel is None else channel
        utterances.append(Utterance(key, AudioSource(path), transcript, 0.0, start, end, channel=channel))
    checked = []
    for utterance, header in zip(utterances, _headers(utterances, num_workers)):
        if isinstance(header, str):
            left_out.append(f"{utterance.key}: {header}")
        else:
            checked.append(replace(utterance, seconds=header.seconds))
    if not checked:
        raise ValueError("\n".join([f"{audio_list} and {text} have no usable utterance in common", *left_out[:10]]))
    return Corpus(checked, left_out)


def _headers(utterances: Sequence[Utterance], num_workers: int) -> list[AudioHeader | str]:
    """Read the headers; for a long list, in several processes with a progress bar."""
    if num_workers == 1 or len(utterances) < LONG_LIST:
        return read_headers(utterances)
    parts = [utterances[first : first + _PART] for first in range(0, len(utterances), _PART)]
    with ProcessPoolExecutor(num_workers, get_context("spawn")) as pool:
        found = progress_bar(pool.map(read_headers, parts), len(parts), "headers", f"{_PART} utt", leave=False)
        return [header for part in found for header in part]


def report_left_out(left_out: Sequence[str], allow_missing: bool) -> None:
    """Print the utterances that are left out of a list, if `allow_missing` is true.

    Raises:
        ValueError: utterances are left out and `allow_missing` is false.
    """
    if left_out and not allow_missing:
        raise ValueError(
            f"{len(left_out)} utterances cannot be listed; mend them, or leave them out with --allow_missing\n"
            + list_problems(left_out)
        )
    if left_out:
        print(f"left out {len(left_out)} utterances:\n{list_problems(left_out)}", file=sys.stderr)


def _read_segments(path: Path, problems: list[str]) -> dict[str, Segment]:
    """Read lines "key recording start end [channel]", in seconds; append messages about wrong lines to `problems`."""
    segments = {}
    for key, value in read_table(path).items():
        fields = value.split()
        try:
            recording, start, end = fields[0], *map(float, fields[1:3])
            channel = _channel(*fields[3:], first=0) if fields[3:] else None
        except (IndexError, TypeError, ValueError):
            problems.append(
                f"{path}: {key}: expected 'recording start end', optionally with a channel from 0, found {value!r}"
            )
            continue
        if not 0 <= start < (math.inf if end == TO_THE_END else end):
            problems.append(
                f"{path}: {key}: start {start} and end {end} must be seconds, 0 <= start < end; an end of -1 means the "
                "end of the recording"
            )
        segments[key] = Segment(recording, start, None if end == TO_THE_END else end, channel)
    return segments


def _read_channels(path: Path, recordings: dict[str, str], problems: list[str]) -> dict[str, int]:
    """Read lines "recording file channel"; append messages about wrong lines to `problems`.

    Recordings that are missing in `recordings` are added, with the path of their file.
    """
    channels = {}
    for recording, value in read_table(path).items():
        file, *fields = value.split()
        try:
            channels[recording] = _channel(*fields, first=1)
        except (TypeError, ValueError):
            problems.append(f"{path}: {recording}: expected 'file channel', channel A, B or from 1, found {value!r}")
        if file in recordings:
            recordings.setdefault(recording, recordings[file])
    return channels


def _channel(text: str, first: int) -> int:
    """Convert A, B or a number that counts from `first` to a channel that counts from 1. Raises ValueError."""
    letters = {"A": 1, "B": 2}
    number = letters[text.upper()] if text.upper() in letters else int(text) + 1 - first
    if not 1 <= number <= MAX_CHANNELS:
        raise ValueError(text)
    return number
