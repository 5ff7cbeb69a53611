"""The command `mic`: speech to text while it is spoken. Knows no decoding and no sound system."""

from __future__ import annotations

import argparse
import contextlib
import math
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from wenet_fusion_runtime.audio.live_audio import AudioBlock, LiveAudio
from wenet_fusion_runtime.audio.microphone import PIPE_FORM, Microphone, choose_device, input_devices
from wenet_fusion_runtime.audio.pcm_pipe import RAW_RATE, PcmPipe
from wenet_fusion_runtime.audio.resampling import MAX_CHANNELS
from wenet_fusion_runtime.audio.wav_writer import WavWriter
from wenet_fusion_runtime.cli.live_line import LiveLine, Piece, is_terminal
from wenet_fusion_runtime.cli.recognition_arguments import (
    Commands,
    add_format_flags,
    add_recognition_flags,
    build_recognizer,
    check_format,
    create_stream,
)
from wenet_fusion_runtime.console import USER_ERRORS
from wenet_fusion_runtime.results.formats import CTM, JSON, TEXT, json_line, make_writer, partial_record
from wenet_fusion_runtime.results.result import Result
from wenet_fusion_runtime.results.words import joined_words
from wenet_fusion_runtime.stream.decoding_options import LIVE_OPTIONS
from wenet_fusion_runtime.stream.recognizer import Stream

MUTE_SECONDS = 3.0  # nothing but zeros for so long is worth a word
MAX_LATENCIES = 20000  # chunks that the summary of --latency speaks of, the last ones


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser."""
    mic = commands.add_parser(
        "mic",
        parents=[common],
        help="speech from a microphone, or a pipe, to text",
        formatter_class=argparse.RawDescriptionHelpFormatter,  # the command in the epilog stays on one line
        description="Show the text of what is spoken into a microphone. On a terminal the text\n"
        "appears while it is recognised, dim as long as it may change; elsewhere each\n"
        "segment is one line. A pause ends a segment, Ctrl-C ends the command with the\n"
        "text so far.",
        epilog=f"audio from another program:\n  {PIPE_FORM}",
    )
    mic.add_argument("--list_devices", action=_ListDevices, help="list the input devices and exit; needs no MODEL")
    mic.add_argument(
        "--device",
        metavar="INDEX|NAME",
        help="input device: its index, or a part of its name (default: the system's default)",
    )
    mic.add_argument(
        "--input",
        choices=["-"],
        metavar="-",
        help="read signed 16-bit little-endian samples, bare or as wav, from standard input instead",
    )
    mic.add_argument(
        "--rate",
        type=int,
        metavar="HZ",
        help=f"sample rate (default: the device's own; of a pipe its wav header's, else {RAW_RATE})",
    )
    mic.add_argument(
        "--channels",
        type=int,
        metavar="N",
        help="channels, whose mean is recognised (default: 1; of a pipe its wav header's)",
    )
    mic.add_argument(
        "--save", type=Path, metavar="FILE.wav", help="keep the audio as it was recognised; FILE.wav must not exist"
    )
    mic.add_argument("--seconds", type=float, metavar="S", help="end after so much audio (default: at Ctrl-C)")
    add_format_flags(mic, "segment")
    mic.add_argument("--latency", action="store_true", help="show how far the text is behind the speaker")
    add_recognition_flags(mic, LIVE_OPTIONS)
    mic.set_defaults(run=_mic)


class _ListDevices(argparse.Action):
    """Like --help: acts when it is met, so that nothing else need be given."""

    def __init__(self, option_strings: list[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(
        self, parser: argparse.ArgumentParser, options: argparse.Namespace, values: object, flag: str | None = None
    ) -> None:
        try:
            devices = input_devices()
        except USER_ERRORS as error:
            parser.exit(1, f"error: {error}\n")
        width = max([len(device.name) for device in devices], default=0)
        for device in devices:
            mark = "*" if device.is_default else " "
            channels = f"{device.channels} channel{'s' * (device.channels > 1)}"
            print(
                f"{mark}{device.number:>3}  {device.name:<{width}}  {device.sample_rate:>6} Hz  {channels:>11}  {device.host}"
            )
        parser.exit(
            0, "* is the default\n" if devices else f"no input devices; audio can come from a pipe: {PIPE_FORM}\n"
        )


def _mic(options: argparse.Namespace) -> int:
    check_format(options)
    for flag, value, most in (
        ("rate", options.rate, math.inf),
        ("channels", options.channels, MAX_CHANNELS),
        ("seconds", options.seconds, math.inf),
    ):
        if value is not None and not 0 < value <= most:
            raise ValueError(
                f"--{flag} must be positive{'' if most == math.inf else f', at most {most}'}, found {value:g}"
            )
    source = _source(options)  # a wrong device is known before the model is loaded, and opened after it
    recording = WavWriter(options.save) if options.save is not None else None
    recognizer, all_usable = build_recognizer(options)
    stream = create_stream(recognizer, options)
    display = _Display(options, source, stream.chunk * recognizer.model.meta.frame_seconds)
    with _stopped_by_signals(source.stop), recording or contextlib.nullcontext():
        try:
            _listen(source, stream, display, recording, options.seconds)
        finally:
            display.clear()  # an error stands on a line of its own
    return 0 if all_usable else 1


def _source(options: argparse.Namespace) -> LiveAudio:
    if options.input is None:
        return Microphone(choose_device(options.device), options.rate, options.channels)
    if options.device is not None:
        raise ValueError("--device and --input exclude each other")
    if sys.stdin.isatty():
        raise ValueError(f"--input - reads audio from a pipe, and standard input is a terminal: {PIPE_FORM}")
    return PcmPipe(sys.stdin.fileno(), options.rate, options.channels)


def _listen(
    source: LiveAudio, stream: Stream, display: _Display, recording: WavWriter | None, seconds: float | None
) -> None:
    """Recognise until the audio ends. Raises what breaks the source or the recording, after the text so far was shown."""
    heard, muted, failure = 0.0, True, None
    with source:
        display.begin()
        blocks = _first_seconds(source, seconds)
        while True:
            try:
                block = next(blocks, None)
                if block is not None and recording is not None:
                    recording.write(block.samples, block.sample_rate)
            except (OSError, ValueError) as error:
                block, failure = None, error
            if block is None:
                break
            heard += block.seconds
            muted = muted and not block.samples.any()
            if muted and heard >= MUTE_SECONDS > heard - block.seconds:
                display.notice("only zeros so far: is the microphone muted, or forbidden to this program?")
            display.closed(stream.accept_waveform(block.samples, block.sample_rate))
            display.partial(stream.result, block.captured, heard)
    display.closed(stream.finish())
    if heard or failure is None:
        display.summary(heard, recording)
    if failure is not None:
        raise failure


def _first_seconds(source: LiveAudio, seconds: float | None) -> Iterator[AudioBlock]:
    """The source's blocks, ended to the sample after so many seconds."""
    heard = 0
    for block in source.blocks():
        left = math.inf if seconds is None else max(1, round(seconds * block.sample_rate)) - heard
        heard += len(block.samples)
        if len(block.samples) >= left:
            yield block._replace(samples=block.samples[:left])
            return
        yield block


@contextlib.contextmanager
def _stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM call `stop`, the second one interrupts whatever runs."""
    stopped = False

    def handle(number: int, frame: object) -> None:
        nonlocal stopped
        if stopped:
            raise KeyboardInterrupt
        stopped = True
        stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Display:
    """Prints text to standard output, what else there is to say to standard error.

    Args:
        options: of the command.
        source: whose losses are shown.
        chunk_seconds: how long the recogniser waits for a chunk.
    """

    def __init__(self, options: argparse.Namespace, source: LiveAudio, chunk_seconds: float) -> None:
        self._source, self._latency, self._chunk_seconds = source, options.latency, chunk_seconds
        self._format, self._partials = options.format, options.partials
        name = options.save or Path(options.input or "microphone")
        self._writer = make_writer(options.format, name.stem if options.format == CTM else str(name), named=False)
        in_place = options.format == TEXT and not options.partials and is_terminal(sys.stdout)
        self._line = LiveLine(sys.stdout) if in_place else None
        self._shown = ""
        self._decoded = 0.0  # seconds
        self._latencies: deque[float] = deque(maxlen=MAX_LATENCIES)
        self._lost = ""

    def begin(self) -> None:
        self.notice(f"listening to {self._source.description}; Ctrl-C ends")
        self._print(self._writer.begin())

    def partial(self, result: Result, captured: float, heard: float) -> None:
        """The open segment after the block that was captured then, with which so many seconds have been heard."""
        if result.end_seconds > self._decoded:
            self._decoded = result.end_seconds
            self._latencies.append(time.monotonic() - captured + heard - result.end_seconds)
        if self._line is not None:
            lag = f"{self._latencies[-1]:.2f} s behind" if self._latency and self._latencies else ""
            status = ", ".join(note for note in (lag, self._losses()) if note)
            committed = joined_words(result.words[: result.committed])
            rest = result.text[len(committed) :]
            gap = "  " if result.text else ""
            self._line.draw(Piece(committed), Piece(rest + (f"{gap}[{status}]" if status else ""), dim=True))
        elif self._partials and result.text != self._shown:
            self._shown = result.text
            if self._format == JSON:
                self._print(json_line(partial_record(result)))
            elif result.text:
                self._print(f"... {result.text}\n")

    def closed(self, results: list[Result]) -> None:
        for result in results:
            if self._format != TEXT:
                self._print(self._writer.segment(result))
            elif result.text and self._line is not None:
                self._line.end(result.text)
            elif result.text:
                self._print(f"{result.text}\n")
        if results and self._line is None and self._losses() != self._lost:
            self._lost = self._losses()
            self.notice(self._lost)

    def clear(self) -> None:
        """Remove the line that may change from a terminal."""
        if self._line is not None:
            self._line.clear()

    def notice(self, text: str) -> None:
        self.clear()
        print(text, file=sys.stderr, flush=True)

    def summary(self, heard: float, recording: WavWriter | None) -> None:
        parts = [f"{heard:.1f} s heard", self._losses() or "nothing lost"]
        if recording is not None and recording.paths:
            parts.append(f"saved to {', '.join(str(path) for path in recording.paths)}")
        self.notice(", ".join(parts))
        if self._source.lost_seconds:
            self.notice(
                "this computer was too slow for the recogniser: try a larger --chunk, or --mode ctc_greedy_search"
            )
        if self._latency and self._latencies:
            median, most = np.quantile(self._latencies, (0.5, 0.95))
            self.notice(
                f"behind the speaker when a chunk was shown: median {median:.2f} s, 95 % within {most:.2f} s, "
                f"longest {max(self._latencies):.2f} s; before that up to {self._chunk_seconds:.2f} s until the "
                "chunk was full"
            )

    def _print(self, text: str) -> None:
        if text:
            print(text, end="", flush=True)

    def _losses(self) -> str:
        seconds, overflows = self._source.lost_seconds, self._source.overflows
        parts = [f"{seconds:.1f} s lost"] if seconds else []
        parts += [f"{overflows} overflow{'s' * (overflows > 1)} of the system's buffer"] if overflows else []
        return ", ".join(parts)
