"""How every command of the project shows its help and its progress, and how it ends; knows no command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from tqdm import tqdm

LOG_INTERVAL_SECONDS = 30.0


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default where there is one to show and the help does not tell it itself."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        told = action.help or ""
        default = action.default  # 0 is one to show, though it equals False
        if default is None or default is False or default == [] or "default:" in told or "default)" in told:
            return action.help
        return super()._get_help_string(action)


class _Bar(tqdm):
    """Draws its postfix with its next count; tqdm would draw the whole bar each time."""

    def set_postfix(self, **values: str) -> None:
        super().set_postfix(refresh=False, **values)


def progress_bar(
    items: Iterable | None, total: int, description: str, unit: str, leave: bool = True, disable: bool = False
) -> tqdm:
    """The bar of work that may take minutes. In a file or a pipe, where every drawing stays, it is drawn twice a minute.

    What takes seconds needs no line in a log: `tqdm(..., disable=None)`.

    Args:
        items: what to iterate over; None if the caller counts.
    """
    terminal = getattr(sys.stderr, "isatty", lambda: False)()
    rare = {} if terminal else {"mininterval": LOG_INTERVAL_SECONDS, "maxinterval": LOG_INTERVAL_SECONDS}
    return _Bar(
        items, total=total, desc=description, unit=unit, leave=leave, disable=disable, dynamic_ncols=True, **rare
    )


def run_main(main: Callable[[Sequence[str] | None], int]) -> NoReturn:
    """Call `main(None)` and exit with what it returns.

    ValueError and OSError are the user's to mend: they print `error: <message>` and exit 1. Anything else is a
    defect of ours and keeps its traceback; WENET_FUSION_TRACEBACK=1 keeps it for user errors too. Ctrl-C exits 130.
    """
    try:
        status = main(None)
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; without this Python complains again while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except (ValueError, OSError) as error:
        if os.environ.get("WENET_FUSION_TRACEBACK") == "1":
            raise
        plain = isinstance(error, OSError) and error.filename and error.strerror  # without "[Errno 2]"
        print(f"error: {error.filename}: {error.strerror}" if plain else f"error: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)
