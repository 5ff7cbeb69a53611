"""The common arguments of the tools that make lists, and the corpus that these arguments describe."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from kaldi_corpus import read_corpus, report_left_out

from wenet_fusion.data.sources import Utterance
from wenet_fusion.text.special_tokens import SPECIAL_TOKEN_CHOICES

SPECIAL_TOKEN_HELP = (
    "how to treat special tokens such as <unk>, [noise] or {LAUGH} in transcripts. refuse: stop and list their lines; "
    "remove: delete them; keep: make each one token of the vocabulary; spell: treat them like other text"
)


def add_input_files(parser: argparse.ArgumentParser) -> None:
    """Add the arguments wav_scp and text."""
    parser.add_argument("wav_scp", type=Path, help="lines 'key path'; with --segments, the keys are recordings")
    parser.add_argument("text", type=Path, help="lines 'key transcript'; the transcript may be empty")


def add_corpus_options(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add the options that `corpus_of` reads; `names` are aliases of --num_workers."""
    parser.add_argument(
        "--segments", type=Path, help="lines 'key recording start end', times in seconds; end -1: end of the recording"
    )
    parser.add_argument(
        "--reco2file_and_channel",
        type=Path,
        help="lines 'recording file channel'; the channel is A, B or a number from 1",
    )
    parser.add_argument("--special_tokens", choices=SPECIAL_TOKEN_CHOICES, default="refuse", help=SPECIAL_TOKEN_HELP)
    parser.add_argument(
        "--allow_missing", action="store_true", help="leave out utterances without audio or text instead of failing"
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument(
        "--num_workers", *names, type=_positive, default=cores, help="number of processes; by default one per core"
    )
    parser.add_argument(
        "--allow_commands",
        action="store_true",
        help="run the commands in wav.scp ('cmd |') and store their audio in a folder beside the output",
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return int(text)


def corpus_of(args: argparse.Namespace) -> list[Utterance]:
    """Read the corpus that the arguments describe; store the audio of commands beside `args.output`.

    Raises:
        OSError, ValueError: see `read_corpus` and `report_left_out`.
    """
    audio = args.output.with_name(f"{args.output.name}.audio") if args.allow_commands else None
    utterances, left_out = read_corpus(
        args.wav_scp,
        args.text,
        args.segments,
        args.special_tokens,
        args.reco2file_and_channel,
        args.num_workers,
        audio,
    )
    report_left_out(left_out, args.allow_missing)
    return utterances
