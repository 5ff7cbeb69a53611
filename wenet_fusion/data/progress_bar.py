"""The progress bar of every command that works through data for minutes."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TextIO

from tqdm import tqdm

LOG_INTERVAL_SECONDS = 30.0
_LOG_LINE = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class _ProgressBar(tqdm):
    """Draws its postfix together with its next count; tqdm would draw the whole bar each time."""

    def set_postfix(self, **values: str) -> None:
        super().set_postfix(refresh=False, **values)


class _Lines:
    """A log that gets whole lines where tqdm draws and wipes out a bar."""

    def __init__(self, log: TextIO) -> None:
        self._log = log
        self.encoding = getattr(log, "encoding", "ascii")

    def write(self, text: str) -> None:
        if text := text.strip():
            self._log.write(f"{text}\n")

    def flush(self) -> None:
        self._log.flush()


def on_terminal() -> bool:
    """Return whether bars are drawn on a terminal, not in a log."""
    return getattr(sys.stderr, "isatty", lambda: False)()


def progress_bar(
    items: Iterable | None, total: int | None, description: str, unit: str, leave: bool = True, disable: bool = False
) -> tqdm:
    """Return a bar for work that may take minutes. In logs (a file or a pipe), it is a line every 30 s.

    For work of seconds use `tqdm(..., disable=None)`, which prints nothing in logs.

    Args:
        items: what to iterate over; None if the caller counts with `update`.
        total: number of items; None if it is not known.
        description: text before the bar.
        unit: name of one item.
        leave: keep the finished bar on the terminal.
        disable: draw nothing.
    """
    if on_terminal():
        return _ProgressBar(
            items, total=total, desc=description, unit=unit, leave=leave, disable=disable, dynamic_ncols=True
        )
    return _ProgressBar(
        items, total=total, desc=description, unit=unit, leave=leave, disable=disable, bar_format=_LOG_LINE,
        file=_Lines(sys.stderr), mininterval=LOG_INTERVAL_SECONDS, maxinterval=LOG_INTERVAL_SECONDS,
    )  # fmt: skip
