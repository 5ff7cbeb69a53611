"""Shared parts of the verbs: the function that adds a verb, devices, counting options, lists of skipped utterances."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch

from wenet_fusion.data.judgement import Skip
from wenet_fusion.scoring.transcripts import UNITS, Counting

MAX_SHOWN = 20  # number of skipped utterances to print


class Verb(Protocol):
    """Add a verb to the command and return its parser."""

    def __call__(
        self, name: str, function: Callable[[argparse.Namespace], int], description: str, examples: Sequence[str]
    ) -> argparse.ArgumentParser:
        """Add a verb.

        Args:
            name: name of the verb.
            function: takes the parsed arguments and returns the exit status. The arguments also hold `usage_error`, a
                function that prints the usage and a message and ends the command.
            description: one sentence, the first line of `--help`.
            examples: arguments after `wenet-fusion VERB`, for the last lines of `--help`.
        """
        ...


def device(name: str, remedy: str = "give cpu or auto") -> torch.device:
    """Return the device with this name; "auto" is a GPU if there is one, else the CPU.

    Raises:
        ValueError: the device cannot be used; the message ends with `remedy`.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
        torch.zeros(1, device=found)
    except (RuntimeError, AssertionError) as error:  # the type of the error depends on the build of torch
        raise ValueError(f"--device {name} cannot be used here ({str(error).splitlines()[0]}); {remedy}") from None
    return found


def rank_device(name: str) -> torch.device:
    """Return the device of this rank; under torchrun, each rank on a host takes a GPU of its own.

    Raises:
        ValueError: the device cannot be used.
    """
    found = device(name)
    if found.type != "cuda" or found.index is not None or "LOCAL_RANK" not in os.environ:
        return found
    found = device(f"cuda:{os.environ['LOCAL_RANK']}", "start as many processes per host as it has GPUs")
    torch.cuda.set_device(found)
    return found


def add_counting(p: argparse.ArgumentParser) -> None:
    """Add the options that define what counts as an error."""
    p.add_argument(
        "--unit",
        choices=UNITS,
        default="word",
        help="count errors in words, in characters, or mixed: Chinese and Japanese by characters, the rest by words",
    )
    p.add_argument("--ignore_case", action="store_true", help="count upper and lower case as equal")
    p.add_argument(
        "--ignore_punctuation",
        action="store_true",
        help="leave out punctuation; an apostrophe within a word belongs to the word",
    )


def counting(args: argparse.Namespace) -> Counting:
    """Return the counting settings, from parsed options of `add_counting`."""
    return Counting(args.unit, args.ignore_case, args.ignore_punctuation)


def make_folder(option: str, path: Path) -> None:
    """Make the folder that an option names, with its parents; an OSError names the option and the remedy."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(f"{option} {path}: {error.filename} is a file; give a folder") from error


def print_notes(notes: Sequence[str]) -> None:
    """Print notes to standard error."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def print_skipped(skips: Sequence[Skip | str]) -> None:
    """Print the first skipped utterances, and the number of further ones, to standard error."""
    for skip in skips[:MAX_SHOWN]:
        print(f"skipped {skip}", file=sys.stderr)
    if len(skips) > MAX_SHOWN:
        print(f"skipped {len(skips) - MAX_SHOWN} more", file=sys.stderr)
