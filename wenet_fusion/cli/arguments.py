"""What verbs share. Knows no verb."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from wenet_fusion.data.dataset import Skip

MAX_SHOWN = 20


class Verb(Protocol):
    """Adds a verb to the parser and returns its own parser."""

    def __call__(
        self, name: str, function: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser: ...


def device(name: str, remedy: str = "give cpu or auto") -> torch.device:
    """The device of that name; "auto" is a GPU if there is one. Raises ValueError, with the remedy, if it cannot be used."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
        torch.zeros(1, device=found)
    except (RuntimeError, AssertionError) as error:  # what torch raises depends on how it was built
        raise ValueError(f"--device {name} cannot be used here ({str(error).splitlines()[0]}); {remedy}") from None
    return found


def print_skipped(skips: Sequence[Skip | str]) -> None:
    for skip in skips[:MAX_SHOWN]:
        print(f"skipped {skip}", file=sys.stderr)
    if len(skips) > MAX_SHOWN:
        print(f"skipped {len(skips) - MAX_SHOWN} more", file=sys.stderr)
