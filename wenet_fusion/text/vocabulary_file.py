"""Read and write vocabulary files (WeNet's units.txt): one token and its id per line, in order of ids."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from wenet_fusion_runtime.files import list_problems, read_lines
from wenet_fusion_runtime.results.vocabulary import Vocabulary


def read_vocabulary(path: str | Path, join: str) -> Vocabulary:
    """Read a vocabulary file.

    Args:
        path: the file, e.g. data/lang/units.txt.
        join: rule that joins tokens into text, see `Vocabulary`.
    Raises:
        OSError: the file cannot be read.
        ValueError: lines are malformed; the message lists them.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: there is no such vocabulary; write it with tools/data/make_vocabulary.py")
    problems: list[str] = []
    tokens: list[str] = []
    first_line: dict[str, int] = {}
    for number, line in enumerate(read_lines(path), start=1):
        # Not str.split: some tokens are white space to Unicode.
        fields = re.split(r"[ \t]+", line.strip(" \t"))
        if fields == [""]:
            continue
        if len(fields) != 2 or not fields[1].isdecimal():
            problems.append(f"{path}:{number}: expected 'token id', found {line!r}")
            continue
        if int(fields[1]) != len(tokens):
            problems.append(f"{path}:{number}: expected id {len(tokens)} for {fields[0]!r}, found {fields[1]}")
        if fields[0] in first_line:
            problems.append(f"{path}:{number}: {fields[0]!r} is already in line {first_line[fields[0]]}")
        first_line.setdefault(fields[0], number)
        tokens.append(fields[0])
    if not tokens and not problems:
        raise ValueError(f"{path}: holds no tokens; write it with tools/data/make_vocabulary.py")
    if problems:
        raise ValueError(list_problems(problems))
    return Vocabulary(tokens, join, str(path))


def format_vocabulary(tokens: Sequence[str]) -> str:
    """Return the text of a vocabulary file; `tokens` include the three reserved ones.

    >>> print(format_vocabulary(["<blank>", "<unk>", "<sos/eos>", "one"]), end="")
    <blank> 0
    <unk> 1
    <sos/eos> 2
    one 3
    """
    return "".join(f"{token} {number}\n" for number, token in enumerate(tokens))
