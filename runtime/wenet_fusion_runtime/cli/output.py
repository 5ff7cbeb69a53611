"""Where the text of recordings goes: standard output, one file, or a file each. Knows no formats and no recognition."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol


class OutputError(OSError):
    """The text cannot be written: no fault of the recording, so no other recording can be written either."""


class Sink(Protocol):
    """What takes text."""

    def write(self, text: str) -> None: ...


class Destination:
    """Opens a sink for each recording. Files appear whole, at the end, or not at all.

    Args:
        output: a file, or a folder (which exists, or ends in a slash, or `each` asks for one): in it each recording has
            a file; None is standard output.
        recordings: paths of them all.
        suffix: of the files in a folder, with its dot.
        each: whether a file can hold one recording only.
        read: files that must not be overwritten.
    Raises:
        ValueError: several recordings would share a file that can hold one, or what is read would be overwritten.
        OutputError: the place cannot be written.
    """

    def __init__(
        self, output: str | None, recordings: Sequence[Path], suffix: str, each: bool, read: Sequence[Path]
    ) -> None:
        self._files: dict[Path, Path] | None = None  # of the recordings, in a folder
        self._whole: _WholeFile | None = None  # of all recordings
        self._is_empty = True  # no recording's text is in it
        self._count = len(recordings)
        several = each and len(recordings) > 1
        if output is None:
            if several:
                raise ValueError(f"a {suffix} file holds one recording; give --output FOLDER/ to write one for each")
            return
        path = Path(output)
        if path.is_dir() or output.endswith(("/", os.sep)) or (several and not path.exists()):
            self._files = {recording: path / f"{recording.stem}{suffix}" for recording in recordings}
            _check_distinct(self._files)
        elif several:
            raise ValueError(f"{output}: is a file and a {suffix} file holds one recording; give --output FOLDER/")
        for target in [path] if self._files is None else self._files.values():
            if any(_is_same(target, other) for other in read):
                raise ValueError(f"{target}: is read by this command; write to another file")
        with _output_errors(path):
            if self._files is None:
                self._whole = _WholeFile(path)
            else:
                path.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=path).close()  # whether files can be made in it is better known now

    @property
    def is_standard(self) -> bool:
        """Whether the text goes to standard output."""
        return self._files is None and self._whole is None

    @property
    def is_shared(self) -> bool:
        """Whether several recordings have the same sink."""
        return self._files is None and self._count > 1

    @contextlib.contextmanager
    def recording(self, path: Path) -> Iterator[Sink]:
        """The sink of one recording; a file of its own is dropped if the block raises."""
        if self._files is not None:
            file, is_whole = _WholeFile(self._files[path]), False
            try:
                yield file
                is_whole = True
            finally:
                file.close(keep=is_whole)
        else:
            yield self._whole or _StandardOutput()
            self._is_empty = False

    def __enter__(self) -> Destination:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._whole is not None:
            self._whole.close(keep=kind is None and not self._is_empty)


class _StandardOutput:
    def write(self, text: str) -> None:
        if text:
            print(text, end="", flush=True)


class _WholeFile:
    """Text that replaces a file once it is closed to be kept. Pipes and devices are written directly."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_direct = path.exists() and not path.is_file()
        self._written_to = path if self._is_direct else path.with_name(f"{path.name}.part")
        with _output_errors(path):
            self._file = open(self._written_to, "w", encoding="utf-8", newline="\n")

    def write(self, text: str) -> None:
        with _output_errors(self._path):
            self._file.write(text)

    def close(self, keep: bool) -> None:
        """End the file; `keep` puts it in its place, or it is dropped."""
        try:
            with _output_errors(self._path):
                self._file.close()
                if keep and not self._is_direct:
                    os.replace(self._written_to, self._path)
        finally:
            if not self._is_direct:
                self._written_to.unlink(missing_ok=True)


@contextlib.contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from None


def _check_distinct(files: dict[Path, Path]) -> None:
    """Raises ValueError if two recordings have one file."""
    owners: dict[Path, Path] = {}
    for recording, file in files.items():
        if file in owners:
            raise ValueError(
                f"{owners[file]} and {recording} would both be written to {file}; "
                "transcribe them into different folders"
            )
        owners[file] = recording


def _is_same(path: Path, other: Path) -> bool:
    return path.exists() and other.exists() and path.samefile(other)
