"""Read text files with clear errors; replace, extend and lock files safely; list problems."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from wenet_fusion_runtime.console import naming_full_disk

MAX_SHOWN, MAX_LENGTH = 20, 400  # problems shown, and characters of each: a binary file may be one long line
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def read_lines(path: str | Path, errors: Literal["strict", "surrogateescape"] = "strict") -> list[str]:
    """Read the lines of a UTF-8 file, without their line feeds.

    Only line feeds end a line: str.splitlines would also split transcripts at U+2028.

    Args:
        path: the file.
        errors: "surrogateescape" for lists of file names, which may hold bytes that are not UTF-8.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not UTF-8.
    """
    return list(iterate_lines(path, errors))


def iterate_lines(path: str | Path, errors: Literal["strict", "surrogateescape"] = "strict") -> Iterator[str]:
    """Yield the lines of a UTF-8 file one by one; see `read_lines`."""
    try:
        with open(path, encoding="utf-8-sig", errors=errors) as file:
            if isinstance(file.buffer, io.BufferedReader) and file.buffer.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):
                raise ValueError(f"{path}: not UTF-8 text but UTF-16; convert it: iconv -f UTF-16 -t UTF-8")
            for line in file:
                yield line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error})") from error


def parse_json(text: str | bytes) -> Any:
    """Parse JSON text that comes from outside.

    Raises:
        ValueError: the text is not JSON, is nested too deeply for Python, or has an object with a repeated key.
    """
    try:
        if isinstance(text, bytes) or text.startswith("\ufeff"):
            return json.loads(text, object_pairs_hook=_unique_members)
        return _DECODER.decode(text)  # json.loads would build a decoder in every call
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dict; raise ValueError for a repeated key, where `json` would keep the last value."""
    if len(found := dict(pairs)) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {printable(max(names, key=names.count)[:100])!r} stands twice in an object")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_members)


def file_sha256(*paths: str | Path) -> str:
    """Return the SHA-256 of a file, or of the concatenation of several files, in hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def check_sha256(path: str | Path, expected: str, *others: str | Path) -> None:
    """Check that `expected` is the SHA-256 of a file, or of the file followed by `others`.

    Raises:
        ValueError: the SHA-256 differs, or `expected` is not a SHA-256.
        OSError: a file cannot be read.
    """
    if len(expected) != 64 or set(expected.lower()) - set("0123456789abcdef"):
        raise ValueError(f"'{expected}' is not a SHA-256: give 64 hexadecimal digits, as sha256sum {path} prints them")
    if (found := file_sha256(path, *others)) != expected.lower():
        raise ValueError(
            f"{path}: its SHA-256 is {found}, expected {expected.lower()}: it is another file, or was changed; get it "
            "again from the source of that checksum. Nothing of it was loaded"
        )


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write; at the end of the block it replaces `path`.

    If the block raises or removes the temporary file, `path` stays as it is. Even if the process is killed, `path` is
    the old file or the whole new one; the next write takes over a temporary file that was left behind.

    Raises:
        OSError: the folder cannot be written, another process is writing this file, or `path` is not a regular file.
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # replacing /dev/null would break the machine
        raise OSError(f"{path} is a directory, a device or a pipe, which no file may replace; name another place")
    temporary = path.with_name(f"{path.name}.part")
    with open(temporary, "ab") as mark:
        _lock(mark.fileno(), path)
        with naming_full_disk(path):
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

    Readers must use the set only if its first file exists: that file is removed first and put in place last. If the
    process is killed, `folder` holds the old set, the whole new set, or old and new files without the first one;
    in the last case, the next write first restores the old set.

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
        with _locked(folder), naming_full_disk(folder):
            yield from _replacing_set(folder, names, folder / ".part")
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):  # another program has put a file into it
                folder.rmdir()
        raise


def write_text(path: str | Path, text: str) -> None:
    """Replace `path` by UTF-8 `text` in one step: see `replacing`. Bytes of file names that are not UTF-8 are kept."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")


def printable(name: str | Path) -> str:
    """Return a file name with control characters and bytes that are not UTF-8 as escapes, for messages and results.

    >>> len(printable(os.fsdecode(bytes([99, 233]))))
    7
    """
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), str(name))


def append_whole(file: io.FileIO, data: bytes) -> None:
    """Append all of `data` to an unbuffered file, or nothing: if the disk is full, the file stays as it was.

    Raises:
        OSError: the data cannot be written; the message names the file.
    """
    end, rest = file.seek(0, os.SEEK_END), memoryview(data)
    with naming_full_disk(Path(str(file.name))):
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            with contextlib.suppress(OSError):  # a pipe or a device cannot be cut
                file.truncate(end)
            raise


def hold_lock(path: Path, message: str) -> io.FileIO:
    """Lock a file until this process ends or is killed; child processes do not inherit the lock.

    Args:
        path: created if it is missing; holds the process ID afterwards.
        message: text of the error, with `{holder}` for the ID of the process that holds the lock.

    Returns:
        The open file; closing it frees the lock.

    Raises:
        OSError: another process holds the lock, or the file cannot be written.
    """
    file = io.FileIO(path, "r+" if path.exists() else "x+")
    if os.name == "posix":  # elsewhere two owners are not noticed
        import fcntl

        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = file.read(20).decode("ascii", "replace").strip()
            file.close()
            raise OSError(message.format(holder=holder or "unknown")) from None
    file.truncate(0)
    file.seek(0)
    append_whole(file, f"{os.getpid()}\n".encode())
    return file


def link_or_copy(path: Path, other: Path) -> None:
    """Hard-link `path` as `other`, or copy it if that is impossible; an existing `other` is replaced."""
    other.unlink(missing_ok=True)
    try:
        os.link(path, other)
    except OSError:  # the file system has no links
        shutil.copy2(path, other)


def list_problems(problems: Sequence[str]) -> str:
    """Return the first MAX_SHOWN problems, one per line; if there are more, a last line with the number of all.

    >>> print(list_problems(["a.wav: is empty", "b.wav: is empty"]))
    a.wav: is empty
    b.wav: is empty
    """
    lines = [line if len(line) <= MAX_LENGTH else f"{line[:MAX_LENGTH]}..." for line in problems[:MAX_SHOWN]]
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
                link_or_copy(folder / name, old / name)
        try:
            _move_set(new, folder, names)
        except BaseException:
            _move_set(old, folder, names)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move_set(source: Path, folder: Path, names: Sequence[str]) -> None:
    """Replace the set in `folder` by the set in `source`: the first file is removed first and put in place last."""
    first, *others = names
    (folder / first).unlink(missing_ok=True)
    for name in (*others, first):
        if (source / name).exists():
            os.replace(source / name, folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


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
