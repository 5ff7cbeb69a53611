"""The progress bar of every command that works through data for minutes."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from tqdm import tqdm

LOG_INTERVAL_SECONDS = 30.0


class _ProgressBar(tqdm):
    """Draws its postfix together with its next count; tqdm would draw the whole bar each time."""

    def set_postfix(self, **values: str) -> None:
        super().set_postfix(refresh=False, **values)


def progress_bar(
    items: Iterable | None, total: int | None, description: str, unit: str, leave: bool = True, disable: bool = False
) -> tqdm:
    """Return a bar for work that may take minutes. In logs (a file or a pipe), it is printed every 30 s.

    For work of seconds use `tqdm(..., disable=None)`, which prints nothing in logs.

    Args:
        items: what to iterate over; None if the caller counts with `update`.
        total: number of items; None if it is not known.
        description: text before the bar.
        unit: name of one item.
        leave: keep the finished bar on the terminal.
        disable: draw nothing.
    """
    is_terminal = getattr(sys.stderr, "isatty", lambda: False)()
    rare = {} if is_terminal else {"mininterval": LOG_INTERVAL_SECONDS, "maxinterval": LOG_INTERVAL_SECONDS}
    return _ProgressBar(
        items, total=total, desc=description, unit=unit, leave=leave, disable=disable, dynamic_ncols=True, **rare
    )
