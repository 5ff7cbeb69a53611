"""The command `transcribe`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from wenet_fusion_runtime.audio.reader import AudioReader
from wenet_fusion_runtime.cli.command import Commands, add_command
from wenet_fusion_runtime.cli.live_line import LiveLine, Piece, is_terminal
from wenet_fusion_runtime.cli.output import Destination, OutputError, Sink, add_format_arguments, check_format
from wenet_fusion_runtime.cli.recognition_arguments import add_recognition_arguments, build_recognizer, create_stream
from wenet_fusion_runtime.console import USER_ERRORS, print_error
from wenet_fusion_runtime.model.wenet.wenet_files import model_paths
from wenet_fusion_runtime.results.formats import (
    CTM,
    FORMATS,
    JSON,
    SUBTITLES,
    SUFFIXES,
    TEXT,
    json_line,
    make_writer,
    partial_record,
)
from wenet_fusion_runtime.results.result import Result
from wenet_fusion_runtime.results.vocabulary import Vocabulary
from wenet_fusion_runtime.stream.decoding_options import FILE_OPTIONS
from wenet_fusion_runtime.stream.stream import Stream

BLOCK_SECONDS = 0.1  # audio per call; results do not depend on it


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    transcribe = add_command(
        commands,
        "transcribe",
        _transcribe,
        "Transcribe audio files with an exported model. The output has one line per file; with several files, the line "
        "begins with the file's name. On a terminal the text appears while it is recognised. If a file cannot be read, "
        "its error is printed, the others are transcribed, and the exit status is 1. For a damaged file the text "
        "before the damage is written.",
        [
            "final.zip recording.flac",
            "final.zip *.wav --chunk 8 --output texts.tsv",
            "final.zip commands/*.wav --grammar commands.jsgf",
            "final.zip *.mp3 --format srt --output subtitles/",
        ],
    )
    transcribe.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="audio file (wav, flac, ogg, opus, mp3, ...; m4a, webm, wma, ... with the extra media) of any sample rate "
        "and number of channels",
    )
    transcribe.add_argument(
        "--channel",
        type=int,
        metavar="N",
        help="channel to recognise, from 1; 0 is the mean of all (default: the mean, and an error if the channels "
        "cancel each other in it)",
    )
    add_format_arguments(transcribe, "file")
    transcribe.add_argument(
        "--output",
        metavar="PATH",
        help="write all text to this file, or one file per FILE if PATH is a folder or ends in / (default: write to "
        "standard output)",
    )
    transcribe.add_argument(
        "--nbest", type=int, metavar="N", help="also write the N best hypotheses of each segment (with --format json)"
    )
    transcribe.add_argument(
        "--real_time", action="store_true", help="feed the audio in real time, so that text appears as for live speech"
    )
    add_recognition_arguments(transcribe, FILE_OPTIONS)


def _transcribe(options: argparse.Namespace) -> int:
    check_format(options)
    if options.nbest is not None and options.format != JSON:
        raise ValueError(f"--nbest has no effect without --format {JSON}")
    suffix = SUFFIXES[FORMATS.index(options.format)]
    read = [*model_paths(options.model), *options.files]
    with Destination(options.output, options.files, suffix, options.format in SUBTITLES, read) as destination:
        recognizer, all_usable = build_recognizer(options, options.nbest)
        create_stream(recognizer, options)  # fail now, not at the first file, if the chunk is wrong
        failed = 0
        for path in options.files:
            try:
                with AudioReader(path, channel=options.channel) as reader, destination.recording(path) as sink:
                    stream = create_stream(recognizer, options)
                    vocabulary = None if options.nbest is None else recognizer.model.meta.vocabulary
                    output = _Output(options, path, sink, destination, vocabulary)
                    damage = _feed(stream, reader, output, options.real_time)
                if damage is not None:
                    raise damage
            except (BrokenPipeError, OutputError):
                raise
            except USER_ERRORS as error:
                if options.traceback:
                    raise
                print_error(error)
                failed += 1
    if failed and len(options.files) > 1:
        print(f"error: {failed} of {len(options.files)} files could not be transcribed to their end", file=sys.stderr)
    return 1 if failed or not all_usable else 0


def _feed(stream: Stream, reader: AudioReader, output: _Output, real_time: bool) -> Exception | None:
    """Transcribe one file.

    Returns:
        The error of a damaged file, whose text before the damage was written; None for an undamaged file.
    Raises:
        ValueError, OSError: the file has no audio before the damage.
    """
    begin, spoken, damage = time.monotonic(), 0.0, None
    blocks = reader.blocks(BLOCK_SECONDS)
    try:
        while True:
            try:
                block = next(blocks, None)
            except (ValueError, OSError) as error:
                if not spoken:
                    raise
                block, damage = None, error
            if block is None:
                break
            if not spoken:
                output.begin()
            spoken += len(block) / reader.sample_rate
            if real_time:
                time.sleep(max(0.0, begin + spoken - time.monotonic()))
            output.finals(stream.accept_waveform(block, reader.sample_rate))
            output.partial(stream)
        output.finals(stream.finish())
    finally:
        output.clear()
    output.end(stream)
    return damage


class _Output:
    """Writes the results of one file, and shows partial text on a terminal.

    Args:
        options: arguments of the command.
        path: path of the recording.
        sink: receives the text.
        destination: destination of all recordings.
        hypotheses_of: vocabulary for writing the hypotheses of each segment; None leaves them out.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        path: Path,
        sink: Sink,
        destination: Destination,
        hypotheses_of: Vocabulary | None,
    ) -> None:
        named = destination.is_shared
        self._path = path
        self._sink = sink
        self._prefix = f"{path}\t" if named else ""
        name = _short_form(tuple(options.files))(path) if options.format == CTM else str(path)
        self._writer = make_writer(options.format, name, named, hypotheses_of)
        self._partials = options.partials
        self._json = options.format == JSON
        would_mix = destination.is_standard and options.format != TEXT
        self._in_place = not options.partials and not would_mix and is_terminal(sys.stdout)
        self._line = LiveLine(sys.stdout)
        self._shown = ""

    def begin(self) -> None:
        """Write the beginning of the output format, before the first audio."""
        self._sink.write(self._writer.begin())

    def partial(self, stream: Stream) -> None:
        """Show the text so far if it changed: in place on a terminal, or on a line of its own with --partials."""
        if not self._in_place and not self._partials:
            return
        text = stream.text
        if text == self._shown:
            return
        self._shown = text
        if self._in_place:
            self._line.draw(Piece(f"{self._path} " if self._prefix else ""), Piece(text))
        elif self._json:
            self._sink.write(json_line({"file": str(self._path), **partial_record(stream.result)}))
        else:
            self._sink.write(f"{self._prefix}... {text}\n")

    def finals(self, results: list[Result]) -> None:
        """Write closed segments; plain text is written at the end of the file."""
        for result in results:
            self._sink.write(self._writer.segment(result))

    def end(self, stream: Stream) -> None:
        """Write the end of the output format."""
        self._sink.write(self._writer.end(stream.text))

    def clear(self) -> None:
        """Remove the partial text from a terminal."""
        self._line.clear()


@lru_cache(maxsize=1)  # it is the same for all files of a command
def _short_form(paths: tuple[Path, ...]) -> Callable[[Path], str]:
    """Return what names all files differently: the name without suffix, else the path without suffix, else the path."""
    forms: tuple[Callable[[Path], str], ...] = (lambda path: path.stem, lambda path: str(path.with_suffix("")))
    return next((form for form in forms if len(set(map(form, paths))) == len(set(paths))), str)
