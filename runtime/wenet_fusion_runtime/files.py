"""Text files read with clear errors, files replaced in one step, and long lists of problems."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

MAX_SHOWN = 20
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def read_lines(path: str | Path, errors: Literal["strict", "surrogateescape"] = "strict") -> list[str]:
    """Read the lines of a UTF-8 file, without their line feeds.

    Only line feeds end a line: str.splitlines would also split transcripts at U+2028.

    Args:
        path: the file.
        errors: for lists of file names "surrogateescape": names may hold bytes that are not UTF-8.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not UTF-8.
    """
    try:
        with open(path, encoding="utf-8-sig", errors=errors) as file:
            return [line.rstrip("\n") for line in file]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error})") from error


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write; at the end of the block it replaces `path`.

    If the block raises or removes the temporary file, `path` stays as it is. Whenever the process is killed, `path` is
    the old file or the whole new one; the next write takes over the temporary file that a kill leaves behind.

    Raises:
        OSError: the folder cannot be written, another process is writing this file, or `path` is not a regular file.
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # replacing /dev/null would break the machine
        raise OSError(f"{path} is a directory, a device or a pipe, which no file may replace; name another place")
    temporary = path.with_name(f"{path.name}.part")
    with open(temporary, "ab") as mark:
        _lock(mark.fileno(), path)
        with _naming_full_disk(path):
            try:
                yield temporary
                if temporary.exists():
                    _sync(temporary)
                    os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_set(folder: str | Path, names: Sequence[str]) -> Iterator[Path]:
    """Yield a temporary folder for files that belong together; at the end of the block they move into `folder`.

    If the block raises, `folder` stays as it is. Files of other names in `folder` always stay.

    The first name must be the file without which the others are not used: it is removed first and put in place last.
    Whenever the process is killed, `folder` holds the old set, the whole new set, or a set without its first file,
    never a mixture; in the last case the next write first restores the old set.

    Args:
        folder: created if it is missing.
        names: all files of the set. Those that the block does not write are removed.

    Raises:
        OSError: the folder cannot be written, or another process is writing into it.
    """
    folder = Path(folder)
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(folder), _naming_full_disk(folder):
            yield from _replacing_set(folder, names, folder / ".part")
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):  # another program has put a file into it
                folder.rmdir()
        raise


def write_text(path: str | Path, text: str) -> None:
    """Replace `path` by UTF-8 `text` in one step: see `replacing`. File names in it keep bytes that are not UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")


def printable(name: str | Path) -> str:
    """Return a file name with control characters and bytes that are not UTF-8 as escapes, for messages and results.

    >>> len(printable(os.fsdecode(bytes([99, 233]))))
    7
    """
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), str(name))


def list_problems(problems: Sequence[str]) -> str:
    """Return the first MAX_SHOWN problems, one per line, and the number of all if there are more.

    >>> print(list_problems(["a.wav: is empty", "b.wav: is empty"]))
    a.wav: is empty
    b.wav: is empty
    """
    lines = list(problems[:MAX_SHOWN])
    if len(problems) > MAX_SHOWN:
        lines.append(f"... {len(problems)} problems in all")
    return "\n".join(lines)


def _replacing_set(folder: Path, names: Sequence[str], temporary: Path) -> Iterator[Path]:
    new, old = temporary / "new", temporary / "old"
    if (old / names[0]).exists() and not (folder / names[0]).exists():  # a kill interrupted the swap
        _move_set(old, folder, names)
    shutil.rmtree(temporary, ignore_errors=True)
    new.mkdir(parents=True)
    old.mkdir()
    try:
        yield new
        for path in new.iterdir():
            _sync(path)
        for name in names:
            if (folder / name).exists():
                _link(folder / name, old / name)
        try:
            _move_set(new, folder, names)
        except BaseException:
            _move_set(old, folder, names)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move_set(source: Path, folder: Path, names: Sequence[str]) -> None:
    """Replace the set in `folder` by that in `source`: the first file is removed first and put in place last."""
    first, *others = names
    (folder / first).unlink(missing_ok=True)
    for name in (*others, first):
        if (source / name).exists():
            os.replace(source / name, folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def _link(path: Path, other: Path) -> None:
    try:
        os.link(path, other)
    except OSError:  # the file system has no links
        shutil.copy2(path, other)


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    if os.name != "posix":  # folders cannot be opened
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    """Lock an open file until it is closed. Raises OSError if another process has locked it."""
    if os.name == "posix":  # elsewhere two writers of one file are not noticed
        import fcntl

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OSError(f"{path} is being written by another process; wait for it, or name another place") from None


@contextlib.contextmanager
def _naming_full_disk(path: Path) -> Iterator[None]:
    """Add the path and a remedy to the error of a full disk, which names neither."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        raise OSError(f"{path} cannot be written ({error.strerror}); free some space, or name another place") from error
