"""The command `transcribe`: audio files to text. Knows no decoding."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

from wenet_fusion_runtime.audio import AudioReader
from wenet_fusion_runtime.commands.common import USER_ERRORS, Commands
from wenet_fusion_runtime.commands.search_arguments import add_search_arguments, search_options, usable_hot_words
from wenet_fusion_runtime.decoding import DecodingOptions
from wenet_fusion_runtime.model_file import read_meta
from wenet_fusion_runtime.recognizer import Recognizer, Stream
from wenet_fusion_runtime.result import Hypothesis, Result
from wenet_fusion_runtime.units import Units

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
    transcribe.add_argument("--chunk", type=int, metavar="FRAMES",
                            help="encoder frames per chunk: fewer show text sooner (default: the model's)")
    transcribe.add_argument("--left", type=int, metavar="CHUNKS",
                            help="chunks that stay visible to the left (default: as in training)")
    transcribe.add_argument("--allow_untrained", action="store_true",
                            help="allow chunks and left contexts that the model was not trained for")
    transcribe.add_argument("--max_segment_seconds", type=float, default=20.0, metavar="S",
                            help="a segment this long closes at the next silence (default: %(default)s)")
    transcribe.add_argument("--json", action="store_true",
                            help="one JSON object per closed segment: file, segment, text, times, tokens")
    transcribe.add_argument("--nbest", type=int, metavar="N",
                            help="with --json, the N best hypotheses of each segment and their scores")
    transcribe.add_argument("--partials", action="store_true",
                            help="each new partial text on a line of its own, also when not on a terminal")
    transcribe.add_argument("--real_time", action="store_true", help="feed the audio as fast as it was spoken")
    add_search_arguments(transcribe)
    transcribe.set_defaults(run=_transcribe)


def _transcribe(options: argparse.Namespace) -> int:
    if options.nbest is not None and not options.json:
        raise ValueError("--nbest is shown with --json only; add --json")
    decoding = search_options(
        DecodingOptions(max_segment_seconds=options.max_segment_seconds, nbest=options.nbest), options)
    hot_words, all_usable = usable_hot_words(options, read_meta(options.model).units)
    recognizer = Recognizer(options.model, replace(decoding, hot_words=hot_words))
    recognizer.create_stream(options.chunk, options.left, options.allow_untrained)    # a wrong chunk is no file's fault
    failed = 0
    for path in options.files:
        output = _Output(
            path, named=len(options.files) > 1, as_json=options.json, partials=options.partials,
            hypotheses_of=None if options.nbest is None else recognizer.model.meta.units,
        )
        try:
            with AudioReader(path) as reader:
                stream = recognizer.create_stream(options.chunk, options.left, options.allow_untrained)
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
    return 1 if failed or not all_usable else 0


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
    """Prints the results of one file; with `hypotheses_of` units the hypotheses of each segment, too."""

    def __init__(
        self, path: Path, named: bool, as_json: bool, partials: bool, hypotheses_of: Units | None
    ) -> None:
        self._path = path
        self._prefix = f"{path}\t" if named else ""
        self._json = as_json
        self._hypotheses_of = hypotheses_of
        self._lines = partials
        self._in_place = not partials and not as_json and sys.stdout.isatty()
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
        width = shutil.get_terminal_size().columns - 1
        line = self._prefix.replace("\t", " ") + text
        print("\r\033[K" + line[-width:], end="", flush=True)

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
                record = _record(self._path, result)
                if self._hypotheses_of is not None:
                    record["hypotheses"] = [_scores(each, self._hypotheses_of) for each in result.hypotheses]
                print(json.dumps(record, ensure_ascii=False), flush=True)

    def end(self, stream: Stream) -> None:
        self.clear()
        if not self._json:
            print(self._prefix + stream.text, flush=True)

    def clear(self) -> None:
        """Remove the partial text from a terminal."""
        if self._in_place and self._shown:
            print("\r\033[K", end="", flush=True)
        self._shown = ""


def _record(path: Path, result: Result) -> dict[str, object]:
    tokens = [
        {"text": token.text, "id": token.id, "start": round(token.start_seconds, 3), "end": round(token.end_seconds, 3),
         "confidence": round(token.confidence, 4)}
        for token in result.tokens
    ]
    return {"file": str(path), "segment": result.segment, "start": round(result.start_seconds, 3),
            "end": round(result.end_seconds, 3), "text": result.text, "tokens": tokens}


def _scores(hypothesis: Hypothesis, units: Units) -> dict[str, object]:
    names = ("score", "ctc_score", "context_score", "lm_score", "length_score", "attention_score")
    return {"text": units.text(hypothesis.ids), **{name: round(getattr(hypothesis, name), 4) for name in names}}
