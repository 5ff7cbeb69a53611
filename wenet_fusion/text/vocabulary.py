"""The units of a model and their ids, and the file units.txt that holds them; knows not how text is cut into units."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from wenet_fusion_runtime.units import RESERVED

from wenet_fusion.files import list_problems, read_lines


class Vocabulary:
    """Units in the order of their ids; ids 0, 1 and 2 are <blank>, <unk> and <sos/eos>.

    `source` says in messages where the units came from. Raises ValueError if the first three are others or a unit
    occurs twice.
    """

    def __init__(self, tokens: Sequence[str], source: str) -> None:
        self.tokens = tuple(tokens)
        self.source = source
        self._ids = {token: number for number, token in enumerate(self.tokens)}
        if self.tokens[: len(RESERVED)] != RESERVED:
            found = list(self.tokens[: len(RESERVED)])
            raise ValueError(f"{source}: the units 0, 1, 2 must be {', '.join(RESERVED)}, found {found}")
        if len(self._ids) != len(self.tokens):
            twice = sorted({token for number, token in enumerate(self.tokens) if self._ids[token] != number})
            raise ValueError(f"{source}: units that occur more than once: {twice[:10]}")

    def __len__(self) -> int:
        return len(self.tokens)

    def id(self, token: str) -> int | None:
        """The id of a unit of text; None for a stranger and for the three reserved units, which no text may contain."""
        number = self._ids.get(token)
        return None if number is None or number < len(RESERVED) else number


def read_vocabulary(path: str | Path) -> Vocabulary:
    """Read units.txt, one "unit id" per line in the order of ids. Raises OSError, ValueError with all wrong lines."""
    problems, tokens = [], []
    first_line: dict[str, int] = {}
    for number, line in enumerate(read_lines(path), start=1):
        # Not str.split: some units are white space to Unicode.
        fields = re.split(r"[ \t]+", line.strip(" \t"))
        if fields == [""]:
            continue
        if len(fields) != 2 or not fields[1].isdecimal():
            problems.append(f"{path}:{number}: expected 'unit id', found {line!r}")
            continue
        if int(fields[1]) != len(tokens):
            problems.append(f"{path}:{number}: expected id {len(tokens)} for {fields[0]!r}, found {fields[1]}")
        if fields[0] in first_line:
            problems.append(f"{path}:{number}: {fields[0]!r} is already in line {first_line[fields[0]]}")
        first_line.setdefault(fields[0], number)
        tokens.append(fields[0])
    if not tokens and not problems:
        raise ValueError(f"{path}: holds no units; write them with tools/make_units.py")
    if problems:
        raise ValueError(list_problems(problems))
    return Vocabulary(tokens, str(path))


def format_vocabulary(tokens: Sequence[str]) -> str:
    """The text of units.txt for all units, the three reserved ones included."""
    return "".join(f"{token} {number}\n" for number, token in enumerate(tokens))
