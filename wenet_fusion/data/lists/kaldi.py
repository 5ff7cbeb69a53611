"""Read Kaldi's tables: lines of a key and a value."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from wenet_fusion_runtime.files import list_problems, read_lines


class Row(NamedTuple):
    """A line "key value" of a table."""

    line: int  # number of the line, from 1
    key: str
    value: str  # the rest of the line; may be empty


def read_table(path: str | Path) -> dict[str, str]:
    """Read Kaldi's "key value" lines in their order; the value is the rest of the line and may be empty.

    Raises:
        OSError: the file cannot be read.
        ValueError: keys occur twice; the message lists the lines.
    """
    return {row.key: row.value for row in read_rows(path)}


def read_rows(path: str | Path, errors: Literal["strict", "surrogateescape"] = "strict") -> list[Row]:
    """Read the lines of a table, see `read_table`; `errors` is an argument of `read_lines`."""
    rows: dict[str, Row] = {}
    problems = []
    for number, line in enumerate(read_lines(path, errors), start=1):
        if not line.strip():
            continue
        key, *rest = line.split(maxsplit=1)
        if key in rows:
            problems.append(f"{path}:{number}: key {key!r} is already in line {rows[key].line}")
        rows.setdefault(key, Row(number, key, rest[0].strip() if rest else ""))
    if problems:
        raise ValueError(list_problems(problems))
    return list(rows.values())
