"""The command `mic`."""

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
from wenet_fusion_runtime.audio.microphone import PIPE_FORM, Microphone, choose_device
from wenet_fusion_runtime.audio.pcm_pipe import RAW_RATE, PcmPipe
from wenet_fusion_runtime.audio.resampling import CANCELLED, ChannelMixer
from wenet_fusion_runtime.audio.sample_formats import MAX_CHANNELS, SAMPLE_RATES
from wenet_fusion_runtime.audio.wav_writer import WavWriter
from wenet_fusion_runtime.cli.command import Commands, add_command
from wenet_fusion_runtime.cli.device_list import ListDevices
from wenet_fusion_runtime.cli.live_line import LiveLine, Piece, is_terminal
from wenet_fusion_runtime.cli.output import add_format_arguments, check_format
from wenet_fusion_runtime.cli.recognition_arguments import add_recognition_arguments, build_recognizer, create_stream
from wenet_fusion_runtime.results.formats import CTM, JSON, TEXT, json_line, make_writer, partial_record
from wenet_fusion_runtime.results.result import Result
from wenet_fusion_runtime.results.words import joined_words
from wenet_fusion_runtime.stream.decoding_options import LIVE_OPTIONS
from wenet_fusion_runtime.stream.endpoints import LONGEST_SECONDS
from wenet_fusion_runtime.stream.stream import Stream

MUTE_SECONDS = 3.0  # a recording that begins with zeros for this long causes a notice
MUTED = "only zeros so far: check that the microphone is not muted and this program may use it"
ROUNDING_SECONDS = 1e-6  # tolerance when sums of durations are compared
MAX_LATENCIES = 20000  # number of most recent chunks that the summary of --latency covers


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    mic = add_command(
        commands,
        "mic",
        _mic,
        "Transcribe live speech from a microphone or a pipe. On a terminal the text appears while it is recognised; "
        "words that may still change are dim. Elsewhere each segment is printed on one line when it closes. A pause "
        "closes a segment. Ctrl-C ends the recording and prints the rest of the text.",
        [
            "final.zip",
            "final.zip --device usb --save talk.wav --latency",
            f"{PIPE_FORM.replace('MODEL', 'final.zip')}",
        ],
    )
    mic.add_argument("--list_devices", action=ListDevices, help="list the input devices and exit; needs no MODEL")
    mic.add_argument(
        "--device",
        metavar="INDEX|NAME",
        help="input device: its index, or a part of its name (default: the system's default)",
    )
    mic.add_argument(
        "--input",
        choices=["-"],
        metavar="-",
        help="read standard input instead of a device: signed 16-bit little-endian samples, or wav of any width; "
        f"{SAMPLE_RATES[0]} to {SAMPLE_RATES[1]} Hz, up to {MAX_CHANNELS} channels: see --rate and --channels",
    )
    mic.add_argument(
        "--rate",
        type=int,
        metavar="HZ",
        help=f"sample rate (default: the device's; for a pipe that of its wav header, or {RAW_RATE})",
    )
    mic.add_argument(
        "--channels",
        type=int,
        metavar="N",
        help="channels to capture (default: 1, or as --channel needs; for a pipe, those of its wav header, or 1)",
    )
    mic.add_argument("--channel", type=int, metavar="N", help="channel to recognise, from 1; 0: mean of all (default)")
    mic.add_argument("--save", type=Path, metavar="FILE.wav", help="save the audio to this new file")
    mic.add_argument("--seconds", type=float, metavar="S", help="end after S seconds of audio (default: at Ctrl-C)")
    add_format_arguments(mic, "segment")
    mic.add_argument("--latency", action="store_true", help="show how many seconds the text lags behind the speaker")
    add_recognition_arguments(mic, LIVE_OPTIONS)


def _mic(options: argparse.Namespace) -> int:
    check_format(options)
    for flag, value, (least, most) in (
        ("rate", options.rate, SAMPLE_RATES),
        ("channels", options.channels, (1, MAX_CHANNELS)),
        ("channel", options.channel, (0, MAX_CHANNELS)),
    ):
        if value is not None and not least <= value <= most:
            raise ValueError(f"--{flag} must be {least} to {most}, found {value}")
    if options.seconds is not None and not 0 < options.seconds <= LONGEST_SECONDS:
        raise ValueError(f"--seconds must be positive, at most {LONGEST_SECONDS:g}, found {options.seconds:g}")
    source = _source(options)  # check the options before the slow loading of the model; the device opens later
    recording = WavWriter(options.save) if options.save is not None else None
    recognizer, all_usable = build_recognizer(options)
    stream = create_stream(recognizer, options)
    display = _Display(options, source, stream.chunk * recognizer.model.meta.frame_seconds)
    with _stopped_by_signals(source.stop), recording or contextlib.nullcontext():
        try:
            _listen(source, stream, display, recording, options)
        finally:
            display.clear()  # an error gets a line of its own
    return 0 if all_usable else 1


def _source(options: argparse.Namespace) -> LiveAudio:
    if options.input is None:
        channels = options.channels or (options.channel if options.channel and options.channel > 1 else None)
        return Microphone(choose_device(options.device), options.rate, channels)
    if options.device is not None:
        raise ValueError("--device and --input exclude each other")
    if sys.stdin.isatty():
        raise ValueError(f"--input - reads audio from a pipe, and standard input is a terminal: {PIPE_FORM}")
    return PcmPipe(sys.stdin.fileno(), options.rate, options.channels)


def _listen(
    source: LiveAudio, stream: Stream, display: _Display, recording: WavWriter | None, options: argparse.Namespace
) -> None:
    """Recognise until the audio ends.

    Raises:
        OSError, ValueError: the source or the saved file failed; raised after the text so far was shown.
    """
    seconds_read, muted, failure, mixer = 0.0, True, None, ChannelMixer(options.channel)
    with source:
        display.begin()
        blocks = _first_seconds(source, options.seconds)
        while True:
            try:
                block = next(blocks, None)
                mono = None if block is None else mixer.mix(block.samples)
            except (OSError, ValueError) as error:
                block, failure = None, error
            if block is None or mono is None:
                break
            try:
                if recording is not None:
                    recording.write(block.samples, block.sample_rate)
            except (OSError, ValueError) as error:
                failure = error  # this block is still recognised
            seconds_read += block.seconds
            muted = muted and not block.samples.any()
            if seconds_read >= MUTE_SECONDS > seconds_read - block.seconds and (muted or mixer.cancels):
                display.notice(MUTED if muted else CANCELLED)
            display.closed(stream.accept_waveform(mono, block.sample_rate))
            display.partial(stream.result, block.captured, seconds_read)
            if failure is not None:
                break
    display.closed(stream.finish())
    if seconds_read or failure is None:
        display.summary(seconds_read, recording)
    if failure is not None:
        raise failure


def _first_seconds(source: LiveAudio, seconds: float | None) -> Iterator[AudioBlock]:
    """Yield the source's blocks until exactly `seconds` of audio; None yields all."""
    count = 0
    for block in source.blocks():
        left = math.inf if seconds is None else max(1, round(seconds * block.sample_rate)) - count
        count += len(block.samples)
        if len(block.samples) >= left:
            yield block._replace(samples=block.samples[: int(left)])
            return
        yield block


@contextlib.contextmanager
def _stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Make the first Ctrl-C or SIGTERM call `stop`, and the second one raise KeyboardInterrupt."""
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
    """Prints text to standard output and notices to standard error.

    Args:
        options: arguments of the command.
        source: the audio source; the display shows how much audio the source lost.
        chunk_seconds: duration of a chunk.
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
        """Print that the device is open, and the header of the output, such as WEBVTT."""
        self.notice(f"listening to {self._source.description}; Ctrl-C ends")
        self._print(self._writer.begin())

    def partial(self, result: Result, captured: float, seconds_read: float) -> None:
        """Show the open segment.

        Args:
            result: result of the open segment.
            captured: `time.monotonic()` when the last block was captured.
            seconds_read: duration of the audio up to the end of that block.
        """
        if result.end_seconds > self._decoded:
            self._decoded = result.end_seconds
            self._latencies.append(time.monotonic() - captured + seconds_read - result.end_seconds)
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
        """Print closed segments."""
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
        """Remove the partial line from a terminal."""
        if self._line is not None:
            self._line.clear()

    def notice(self, text: str) -> None:
        """Print a line to standard error."""
        self.clear()
        print(text, file=sys.stderr, flush=True)

    def summary(self, seconds_read: float, recording: WavWriter | None) -> None:
        """Print duration, losses, the saved file and the latency."""
        parts = [f"{seconds_read:.1f} s of audio", self._losses() or "nothing lost"]
        if recording is not None and recording.paths:
            names = ", ".join(str(path) for path in recording.paths)
            if recording.seconds >= seconds_read - ROUNDING_SECONDS:
                parts.append(f"saved to {names}")
            else:
                parts[1:] = [*filter(None, [self._losses()]), f"the first {recording.seconds:.1f} s saved to {names}"]
        self.notice(", ".join(parts))
        if self._source.lost_seconds:
            self.notice(
                "this computer was too slow for the recogniser: try a larger --chunk, or --mode ctc_greedy_search"
            )
        if self._latency and self._latencies:
            median, most = np.quantile(self._latencies, (0.5, 0.95))
            self.notice(
                f"behind the speaker when a chunk was shown: median {median:.2f} s, 95 % within {most:.2f} s, "
                f"longest {max(self._latencies):.2f} s; the first words of a chunk wait up to "
                f"{self._chunk_seconds:.2f} s more, until it is full"
            )

    def _print(self, text: str) -> None:
        if text:
            print(text, end="", flush=True)

    def _losses(self) -> str:
        seconds, overflows = self._source.lost_seconds, self._source.overflows
        parts = [f"{seconds:.1f} s lost"] if seconds else []
        parts += [f"{overflows} overflow{'s' * (overflows > 1)} of the system's buffer"] if overflows else []
        return ", ".join(parts)
