"""Text files read with clear errors, files replaced in one step, long lists of problems; knows no format."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

MAX_SHOWN = 20


def read_lines(path: str | Path) -> list[str]:
    """Lines of a UTF-8 file without their ends. Raises OSError, and ValueError if it is not UTF-8.

    Only line feeds end a line; str.splitlines would also cut transcripts at U+2028 and its kin.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            return [line.rstrip("\n") for line in file]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error})") from error


def read_table(path: str | Path) -> dict[str, str]:
    """Kaldi's "key value" lines in their order; the value is the rest of the line and may be empty.

    Raises OSError, and ValueError with the lines whose key occurs twice.
    """
    table: dict[str, str] = {}
    first_line: dict[str, int] = {}
    problems = []
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        key, *rest = line.split(maxsplit=1)
        if key in table:
            problems.append(f"{path}:{number}: key {key!r} is already in line {first_line[key]}")
        first_line.setdefault(key, number)
        table[key] = rest[0].strip() if rest else ""
    if problems:
        raise ValueError(list_problems(problems))
    return table


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path to write; it becomes `path` at the end of the block, or is removed if the block raises.

    Whatever kills the process in between, `path` is either the old file or the whole new one. What a kill leaves behind
    has a fixed name, which the next write takes over.

    Raises:
        OSError: the folder cannot be written, or another process is writing this file at the moment.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.part")
    with open(temporary, "ab") as mark:
        if os.name == "posix":  # elsewhere two writers of one file are not noticed
            import fcntl

            try:
                fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise OSError(f"{path} is being written by another process; wait for it, or name another file") from None
        yield from _replacing(path, temporary)


def _replacing(path: Path, temporary: Path) -> Iterator[Path]:
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Replace `path` by UTF-8 `text` in one step."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def list_problems(problems: Sequence[str]) -> str:
    """The first MAX_SHOWN problems, one per line, and how many there are in all."""
    lines = list(problems[:MAX_SHOWN])
    if len(problems) > MAX_SHOWN:
        lines.append(f"... {len(problems)} problems in all")
    return "\n".join(lines)
