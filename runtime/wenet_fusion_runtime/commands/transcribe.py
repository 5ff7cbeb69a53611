"""The command `transcribe`: audio files to text. Knows no decoding."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from wenet_fusion_runtime.audio import AudioReader
from wenet_fusion_runtime.commands.common import (
    USER_ERRORS, Commands, add_recognition_flags, build_recognizer, create_stream
)
from wenet_fusion_runtime.endpoint import FILE_ENDPOINTS
from wenet_fusion_runtime.live_line import LiveLine, Piece, is_terminal
from wenet_fusion_runtime.recognizer import Stream
from wenet_fusion_runtime.result import Result

BLOCK_SECONDS = 0.1    # how audio is cut; results do not depend on it


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser."""
    transcribe = commands.add_parser(
        "transcribe", parents=[common], help="audio files to text",
        description="Stream audio files through the model. Prints one line of text per file, after its name if "
                    "there are several. On a terminal the text appears while it is recognised. A file that cannot be "
                    "read is reported, the others go on, and the exit status is 1; of a damaged file the text up to "
                    "the damage is printed.")
    transcribe.add_argument("files", nargs="+", type=Path, metavar="FILE",
                            help="wav, flac, ogg, opus, mp3, ...; any sample rate and number of channels")
    transcribe.add_argument("--json", action="store_true",
                            help="one JSON object per closed segment: file, segment, text, times, tokens")
    transcribe.add_argument("--partials", action="store_true",
                            help="each new partial text on a line of its own, also when not on a terminal")
    transcribe.add_argument("--real_time", action="store_true", help="feed the audio as fast as it was spoken")
    add_recognition_flags(transcribe, FILE_ENDPOINTS)
    transcribe.set_defaults(run=_transcribe)


def _transcribe(options: argparse.Namespace) -> int:
    recognizer = build_recognizer(options)
    create_stream(recognizer, options)    # a wrong chunk is no file's fault
    failed = 0
    for path in options.files:
        output = _Output(path, named=len(options.files) > 1, as_json=options.json, partials=options.partials)
        try:
            with AudioReader(path) as reader:
                stream = create_stream(recognizer, options)
                _feed(stream, reader, output, options.real_time)
        except BrokenPipeError:
            raise
        except USER_ERRORS as error:
            if options.traceback:
                raise
            output.clear()
            print(f"error: {error}", file=sys.stderr)
            failed += 1
    if failed and len(options.files) > 1:
        print(f"error: {failed} of {len(options.files)} files could not be transcribed to their end", file=sys.stderr)
    return 1 if failed else 0


def _feed(stream: Stream, reader: AudioReader, output: _Output, real_time: bool) -> None:
    """One file. Raises what the reader raises, after the text of the audio before the damage was printed."""
    begin, spoken, damage = time.monotonic(), 0.0, None
    blocks = reader.blocks(BLOCK_SECONDS)
    while True:
        try:
            block = next(blocks, None)
        except (ValueError, OSError) as error:
            block, damage = None, error
        if block is None:
            break
        spoken += len(block) / reader.sample_rate
        if real_time:
            time.sleep(max(0.0, begin + spoken - time.monotonic()))
        output.finals(stream.accept_waveform(block, reader.sample_rate))
        output.partial(stream)
    if damage is None or spoken:
        output.finals(stream.finish())
        output.end(stream)
    if damage is not None:
        raise damage


class _Output:
    """Prints the results of one file."""

    def __init__(self, path: Path, named: bool, as_json: bool, partials: bool) -> None:
        self._path = path
        self._prefix = f"{path}\t" if named else ""
        self._json = as_json
        self._lines = partials
        self._in_place = not partials and not as_json and is_terminal(sys.stdout)
        self._line = LiveLine(sys.stdout)
        self._shown = ""

    def partial(self, stream: Stream) -> None:
        """Show the text so far if it changed: in place, on a line of its own, or not at all."""
        if not self._in_place and not self._lines:
            return
        text = stream.text
        if text == self._shown:
            return
        self._shown = text
        if not self._in_place:
            self._print_partial(stream, text)
            return
        self._line.draw(Piece(self._prefix.replace("\t", " ") + text))

    def _print_partial(self, stream: Stream, text: str) -> None:
        if self._json:
            record = {"file": str(self._path), "segment": stream.result.segment, "partial": stream.result.text}
            print(json.dumps(record, ensure_ascii=False), flush=True)
        else:
            print(f"{self._prefix}... {text}", flush=True)

    def finals(self, results: list[Result]) -> None:
        """Closed segments, at once with --json; otherwise the file's text comes at its end."""
        if self._json:
            for result in results:
                print(json.dumps(_record(self._path, result), ensure_ascii=False), flush=True)

    def end(self, stream: Stream) -> None:
        self.clear()
        if not self._json:
            print(self._prefix + stream.text, flush=True)

    def clear(self) -> None:
        """Remove the partial text from a terminal."""
        self._line.clear()


def _record(path: Path, result: Result) -> dict[str, object]:
    tokens = [
        {"text": token.text, "id": token.id, "start": round(token.start_seconds, 3), "end": round(token.end_seconds, 3),
         "confidence": round(token.confidence, 4)}
        for token in result.tokens
    ]
    return {"file": str(path), "segment": result.segment, "start": round(result.start_seconds, 3),
            "end": round(result.end_seconds, 3), "text": result.text, "tokens": tokens}
