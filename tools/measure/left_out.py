"""What tools say at their end of recordings that they went on without; knows no recording."""

import sys
from collections.abc import Mapping, Sequence

from wenet_fusion_runtime.files import list_problems


def all_problems(listed: Sequence[str], unreadable: Mapping[str, str]) -> list[str]:
    """The problems of a list, then why audio could not be read, by keys."""
    return [*listed, *(f"{key}: {reason}" for key, reason in unreadable.items())]


def tell_left_out(problems: Sequence[str], what: str = "utterances") -> int:
    """Print them, if there are any; returns the exit status."""
    if problems:
        print(list_problems(problems), file=sys.stderr)
        print(f"error: {len(problems)} {what} could not be read and were left out", file=sys.stderr)
    return 1 if problems else 0
