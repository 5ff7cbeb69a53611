"""Report the recordings that a tool skipped."""

import sys
from collections.abc import Mapping, Sequence

from wenet_fusion_runtime.files import list_problems


def all_problems(listed: Sequence[str], unreadable: Mapping[str, str]) -> list[str]:
    """Return the problems of a list, followed by "KEY: REASON" for each unreadable recording."""
    return [*listed, *(f"{key}: {reason}" for key, reason in unreadable.items())]


def report_skipped(problems: Sequence[str], what: str = "utterances") -> int:
    """Print the skipped recordings; return the exit status, 1 if there are any."""
    if problems:
        print(list_problems(problems), file=sys.stderr)
        print(f"error: {len(problems)} {what} could not be read and were left out", file=sys.stderr)
    return 1 if problems else 0
