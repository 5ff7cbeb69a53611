"""Format and destination of recognised text: standard output, one file, or one file per recording."""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol

from wenet_fusion_runtime.console import FULL_DISK
from wenet_fusion_runtime.files import replacing
from wenet_fusion_runtime.results.formats import FORMATS, JSON, TEXT


class OutputError(OSError):
    """Text cannot be written. The command ends, because it could not write the text of other recordings either."""


def add_format_arguments(command: argparse.ArgumentParser, unit: str) -> None:
    """Add --format and --partials.

    Args:
        command: parser of the command.
        unit: the unit that has one line in plain text, e.g. "file".
    """
    command.add_argument(
        "--format",
        choices=FORMATS,
        default=TEXT,
        help=f"output format: text has a line per {unit}; json an object per closed segment, with words, tokens, "
        "timestamps and confidences; ctm a line per word; srt and vtt are subtitles",
    )
    command.add_argument(
        "--partials",
        action="store_true",
        help="print each new partial text on a line of its own, for the formats text and json",
    )


def check_format(options: argparse.Namespace) -> None:
    """Raise ValueError if the arguments of `add_format_arguments` contradict each other."""
    if options.partials and options.format not in (TEXT, JSON):
        raise ValueError(f"--partials goes with --format {TEXT} or {JSON}, not with {options.format}")


class Sink(Protocol):
    """A destination of text."""

    def write(self, text: str) -> None:
        """Append text."""


class Destination:
    """Opens a sink for each recording. A file appears complete at the end, or not at all.

    Args:
        output: a file, or a folder, which gets one file per recording. A path is a folder if it exists as one or ends
            in a slash; also if it is new, `each` is set and there are several recordings. None is standard output.
        recordings: paths of all recordings.
        suffix: suffix of the files in a folder, with its dot.
        each: the format allows only one recording per file.
        read: files that must not be overwritten.
    Raises:
        ValueError: recordings would share a file that can hold only one, or a file of `read` would be overwritten.
        OutputError: the file or folder cannot be written.

    >>> with Destination(None, [Path("a.wav")], ".txt", each=False, read=[]) as destination:
    ...     with destination.recording(Path("a.wav")) as sink:
    ...         sink.write("hello")
    hello
    """

    def __init__(
        self, output: str | None, recordings: Sequence[Path], suffix: str, each: bool, read: Sequence[Path]
    ) -> None:
        self._files: dict[Path, Path] | None = None  # a file of each recording, in a folder
        self._whole: _WholeFile | None = None  # one file of all recordings
        self._is_empty = True  # no recording has been written completely
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
                tempfile.TemporaryFile(dir=path).close()  # fail now, not after an hour, if the folder is read-only

    @property
    def is_standard(self) -> bool:
        """True if the text goes to standard output."""
        return self._files is None and self._whole is None

    @property
    def is_shared(self) -> bool:
        """True if several recordings have the same sink."""
        return self._files is None and self._count > 1

    @contextlib.contextmanager
    def recording(self, path: Path) -> Iterator[Sink]:
        """Open the sink of a recording. If the block raises, the recording's own file is not written."""
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
            with _output_errors(Path("standard output")):
                print(text, end="", flush=True)


class _WholeFile:
    """A file that is replaced as a whole when it is closed. Pipes and devices are written directly."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part: Path | None = None
        with _output_errors(path), contextlib.ExitStack() as stack:
            if not path.exists() or path.is_file():
                self._part = stack.enter_context(replacing(path))
            self._file = stack.enter_context(
                open(self._part or path, "w", encoding="utf-8", errors="backslashreplace", newline="\n")
            )
            self._open = stack.pop_all()

    def write(self, text: str) -> None:
        with _output_errors(self._path):
            self._file.write(text)

    def close(self, keep: bool) -> None:
        """Close the file. It replaces the old one if `keep` is set, and is deleted otherwise."""
        with _output_errors(self._path), self._open, _output_errors(self._path):
            self._file.close()
            if self._part is not None and not keep:
                self._part.unlink()


@contextlib.contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (BrokenPipeError, OutputError):
        raise
    except OSError as error:
        remedy = "; free some space, or name another place" if error.errno in FULL_DISK else ""
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}){remedy}") from None


def _check_distinct(files: dict[Path, Path]) -> None:
    """Raise ValueError if two recordings would share a file."""
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
