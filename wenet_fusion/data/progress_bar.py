"""The progress bar of commands that process data for minutes."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TextIO

from tqdm import tqdm

LOG_INTERVAL_SECONDS = 30.0
_LOG_LINE = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class _ProgressBar(tqdm):
    """Draws a new postfix together with the next count; tqdm would redraw the bar for each postfix."""

    def set_postfix(self, **values: str) -> None:
        super().set_postfix(refresh=False, **values)


class _Lines:
    """Writes whole lines to a log, instead of the bar that tqdm redraws."""

    def __init__(self, log: TextIO) -> None:
        self._log = log
        self.encoding = getattr(log, "encoding", "ascii")

    def write(self, text: str) -> None:
        if text := text.strip():
            self._log.write(f"{text}\n")

    def flush(self) -> None:
        self._log.flush()


def on_terminal() -> bool:
    """Return whether standard error is a terminal, which shows bars."""
    return getattr(sys.stderr, "isatty", lambda: False)()


def progress_bar(
    items: Iterable | None, total: int | None, description: str, unit: str, leave: bool = True, disable: bool = False
) -> tqdm:
    """Return a progress bar for work that may take minutes. In logs (a file or a pipe), it prints a line every 30 s.

    For work that takes seconds, use `tqdm(..., disable=None)`, which prints nothing in logs.

    Args:
        items: items to iterate over; None: the caller counts with `update`.
        total: number of items; None: unknown.
        description: text before the bar.
        unit: name of one item.
        leave: keep the finished bar on the terminal.
        disable: draw nothing.
    """
    style: dict[str, Any] = {"dynamic_ncols": True}
    if not on_terminal():
        style = {"bar_format": _LOG_LINE, "file": _Lines(sys.stderr)}
        style |= {"mininterval": LOG_INTERVAL_SECONDS, "maxinterval": LOG_INTERVAL_SECONDS}
    return _ProgressBar(items, total=total, desc=description, unit=unit, leave=leave, disable=disable, **style)
