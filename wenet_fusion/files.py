"""Text files read with clear errors, files replaced in one step, long lists of problems; knows no format."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

MAX_SHOWN = 20
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
        OSError: the folder cannot be written, another process is writing this file at the moment, or something that is no
            file has its name.
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # taking the place of /dev/null would break the machine
        raise OSError(f"{path} is a directory, a device or a pipe, which no file may replace; name another place")
    temporary = path.with_name(f"{path.name}.part")
    with open(temporary, "ab") as mark:
        _claim(mark.fileno(), path)
        with _space(path):
            yield from _replacing(path, temporary)


def _claim(descriptor: int, path: Path) -> None:
    """Holds the open file for this process until it is closed. Raises OSError if another one holds it."""
    if os.name == "posix":  # elsewhere two writers of one file are not noticed
        import fcntl

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OSError(f"{path} is being written by another process; wait for it, or name another place") from None


def _replacing(path: Path, temporary: Path) -> Iterator[Path]:
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_set(folder: str | Path, names: Sequence[str]) -> Iterator[Path]:
    """A temporary folder to write files that belong together; at the end of the block they take their places in
    `folder`, or are removed if the block raises. Other files in `folder` stay.

    The first name is the file without which nobody uses the others: it goes first and comes last. So whatever kills the
    process in between, `folder` holds the old set, the whole new one, or one without its first file, never a mixture;
    in the last case the next write begins by putting the old set back.

    Args:
        folder: made if it is missing.
        names: all that may belong to the set. What the block did not write is removed.

    Raises:
        OSError: the folder cannot be written, or another process is writing into it at the moment.
    """
    folder = Path(folder)
    missing = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _claimed(folder), _space(folder):
            yield from _replacing_set(folder, names, folder / ".part")
    except BaseException:
        if missing:
            with contextlib.suppress(OSError):  # somebody has put something into it
                folder.rmdir()
        raise


def _replacing_set(folder: Path, names: Sequence[str], temporary: Path) -> Iterator[Path]:
    new, old = temporary / "new", temporary / "old"
    if (old / names[0]).exists() and not (folder / names[0]).exists():  # a kill interrupted the swap
        _put(old, folder, names)
    shutil.rmtree(temporary, ignore_errors=True)
    new.mkdir(parents=True)
    old.mkdir()
    try:
        yield new
        for path in new.iterdir():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        for name in names:
            if (folder / name).exists():
                _second_name(folder / name, old / name)
        try:
            _put(new, folder, names)
        except BaseException:
            _put(old, folder, names)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _space(path: Path) -> Iterator[None]:
    """A write that finds no space does not know itself what it was writing."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        raise OSError(f"{path} cannot be written ({error.strerror}); free some space, or name another place") from error


def _put(source: Path, folder: Path, names: Sequence[str]) -> None:
    """Makes a set in `folder` that of `source`: its first file goes first and comes last."""
    first, *others = names
    (folder / first).unlink(missing_ok=True)
    for name in (*others, first):
        if (source / name).exists():
            os.replace(source / name, folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def _second_name(path: Path, other: Path) -> None:
    try:
        os.link(path, other)
    except OSError:  # not every file system has links
        shutil.copy2(path, other)


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    if os.name != "posix":  # where folders cannot be opened
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _claim(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


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
