"""Read utterances from Kaldi's wav.scp, text and segments, and report files that do not match."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from wenet_fusion_runtime.files import list_problems, read_lines

from wenet_fusion.data.sources import AudioSource, Utterance, read_headers


class Corpus(NamedTuple):
    """Utterances of a Kaldi data folder with readable headers, in the order of `text`."""

    utterances: list[Utterance]
    left_out: list[str]  # one line for each utterance that is left out, with its reason


class Segment(NamedTuple):
    """A part of a recording."""

    recording: str
    start: float  # seconds
    end: float


def read_table(path: str | Path) -> dict[str, str]:
    """Read Kaldi's "key value" lines in their order; the value is the rest of the line and may be empty.

    Raises:
        OSError: the file cannot be read.
        ValueError: keys occur twice; the message lists their lines.
    """
    table: dict[str, str] = {}
    first_line: dict[str, int] = {}
    problems = []
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        key, *rest = line.split(maxsplit=1)
        if key in table:
            problems.append(f"{path}:{number}: key {key!r} is already in line {first_line[key]}")
        first_line.setdefault(key, number)
        table[key] = rest[0].strip() if rest else ""
    if problems:
        raise ValueError(list_problems(problems))
    return table


def read_corpus(wav_scp: Path, text: Path, segments: Path | None = None) -> Corpus:
    """Read the files of a Kaldi data folder; audio paths start at the working directory and become absolute.

    Utterances without transcript, without audio or with an unreadable header are left out, see `settle_left_out`.

    Args:
        wav_scp: lines "key path"; with `segments`, the keys are recordings.
        text: lines "key transcript".
        segments: lines "key recording start end", times in seconds.

    Raises:
        OSError: a file cannot be read.
        ValueError: lists all malformed lines; or no utterance is usable.
    """
    transcripts = read_table(text)
    recordings = read_table(wav_scp)
    problems = [f"{wav_scp}: {key} has no path" for key, path in recordings.items() if not path]
    problems += [
        f"{wav_scp}: {key} is a command ({path}); run it and list the file that it makes"
        for key, path in recordings.items()
        if path.endswith("|")
    ]
    cuts: dict[str, Segment] | None = None
    if segments is not None:
        cuts = _read_segments(segments, problems)
    if problems:
        raise ValueError(list_problems(problems))

    audio_list = segments or wav_scp
    known = recordings if cuts is None else cuts
    left_out = [f"{key}: has no audio in {audio_list}" for key in transcripts if key not in known]
    left_out += [f"{key}: has no transcript in {text}" for key in known if key not in transcripts]
    utterances = []
    for key, transcript in transcripts.items():
        if key not in known:
            continue
        recording, start, end = (key, None, None) if cuts is None else cuts[key]
        if recording not in recordings:
            left_out.append(f"{key}: its recording {recording} is not in {wav_scp}")
            continue
        path = os.path.abspath(recordings[recording])
        if not os.path.isfile(path):
            left_out.append(f"{key}: there is no audio file {path}")
            continue
        utterances.append(Utterance(key, AudioSource(path), transcript, 0.0, start, end))
    checked = []
    for utterance, header in zip(utterances, read_headers(utterances)):
        if isinstance(header, str):
            left_out.append(f"{utterance.key}: {header}")
        else:
            checked.append(replace(utterance, seconds=header.seconds))
    if not checked:
        raise ValueError("\n".join([f"{audio_list} and {text} have no usable utterance in common", *left_out[:10]]))
    return Corpus(checked, left_out)


def settle_left_out(left_out: Sequence[str], allow_missing: bool) -> None:
    """Print what is left out of a list.

    Raises:
        ValueError: something is left out and `allow_missing` is false.
    """
    if left_out and not allow_missing:
        raise ValueError(
            f"{len(left_out)} utterances cannot be listed; mend them, or leave them out with --allow_missing\n"
            + list_problems(left_out)
        )
    if left_out:
        print(f"left out {len(left_out)} utterances:\n{list_problems(left_out)}", file=sys.stderr)


def _read_segments(path: Path, problems: list[str]) -> dict[str, Segment]:
    """Read lines "utterance recording start end" (seconds); what is wrong goes to `problems`."""
    segments = {}
    for key, value in read_table(path).items():
        fields = value.split()
        try:
            recording, start, end = fields[0], *map(float, fields[1:])
        except (IndexError, ValueError):
            problems.append(f"{path}: {key}: expected 'recording start end', found {value!r}")
            continue
        if not 0 <= start < end:
            problems.append(f"{path}: {key}: start {start} and end {end} must be seconds, 0 <= start < end")
        segments[key] = Segment(recording, start, end)
    return segments
