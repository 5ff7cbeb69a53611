"""The command `client`: recordings to a server, text back. Knows no protocol and no recognition."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import numpy as np

from wenet_fusion_runtime.audio.pcm_pipe import ARECORD, RAW_RATE, PcmPipe
from wenet_fusion_runtime.audio.reader import AudioReader
from wenet_fusion_runtime.audio.resampling import Resampler, to_mono
from wenet_fusion_runtime.cli.live_line import LiveLine, Piece, is_terminal
from wenet_fusion_runtime.cli.recognition_arguments import (
    Commands,
    add_endpoint_flags,
    extra_needed,
    given_endpoint,
)
from wenet_fusion_runtime.cli.search_arguments import add_hot_word_arguments, given_hot_words
from wenet_fusion_runtime.cli.serve import TOKEN_VARIABLE, read_token
from wenet_fusion_runtime.console import USER_ERRORS
from wenet_fusion_runtime.results.result import Word
from wenet_fusion_runtime.results.words import joined_words
from wenet_fusion_runtime.search.hot_words import HotWord
from wenet_fusion_runtime.server.session_options import FLOAT32, SAMPLE_RATE, SessionOptions

if TYPE_CHECKING:
    from wenet_fusion_runtime.server.websocket.websocket_client import ServerResult, Timing

BLOCK_SECONDS = 0.1  # of audio in a message; results do not depend on it
STANDARD_INPUT = "-"
SCHEMES = ("ws", "wss", "http", "https")


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser; of `common` it shares no argument, since it needs no model."""
    client = commands.add_parser(
        "client",
        help="recordings to a server, text back",
        description="Send recordings to a server (wenet-fusion-runtime serve, or with --wenet one of WeNet's) as fast as they "
        "were spoken, and print the text while it comes. Standard output gets one line per recording, standard "
        "error the delays. What fails is reported, the others go on, and the exit status is 1.",
    )
    client.add_argument("url", metavar="URL", help="ws://HOST:PORT/, wss://, http://, https:// or HOST:PORT")
    client.add_argument(
        "files",
        nargs="+",
        metavar="FILE|-",
        help="wav, flac, ogg, opus, mp3, ...; -: 16-bit samples from standard input, bare or as wav",
    )
    client.add_argument("--fast", action="store_true", help="send as fast as the server takes it")
    client.add_argument(
        "--partials",
        action="store_true",
        help="print each new partial text on a line of its own, also when not on a terminal",
    )
    client.add_argument("--chunk", type=int, metavar="FRAMES", help="encoder frames per chunk (default: the server's)")
    client.add_argument(
        "--left", type=int, metavar="CHUNKS", help="chunks visible to the left (default: as in training)"
    )
    client.add_argument(
        "--rate", type=int, metavar="HZ", help=f"of bare samples from standard input (default: {RAW_RATE})"
    )
    client.add_argument(
        "--wenet",
        action="store_true",
        help="speak to a server of WeNet: 16-bit audio at 16 kHz and none of our extensions",
    )
    client.add_argument(
        "--token_file",
        type=Path,
        metavar="FILE",
        help=f"the token is in it (default: that of ${TOKEN_VARIABLE}, if it is set)",
    )
    client.add_argument(
        "--authority",
        type=Path,
        metavar="FILE",
        help="PEM certificates that vouch for the server (default: the system's)",
    )
    client.add_argument("--traceback", action="store_true", help="show where an error came from")
    add_hot_word_arguments(client)
    add_endpoint_flags(client, None)
    client.set_defaults(run=_client)


class _Recording(NamedTuple):
    sample_rate: int
    blocks: Iterator[np.ndarray]  # float32, mono
    is_live: bool  # comes as it is spoken


def _client(options: argparse.Namespace) -> int:
    try:
        from wenet_fusion_runtime.server.websocket.websocket_client import ServerAddress, recognise
    except ImportError as error:
        raise extra_needed("the client", "server", error) from None
    if options.files.count(STANDARD_INPUT) > 1:
        raise ValueError("standard input can be read once only")
    if STANDARD_INPUT in options.files and sys.stdin.isatty():
        raise ValueError(
            f"- reads audio from a pipe, and standard input is a terminal: {ARECORD} | wenet-fusion-runtime "
            f"client {options.url} -"
        )
    hot_words = _hot_words(options)
    server = ServerAddress(_url(options.url), read_token(options.token_file), _tls(options.authority))
    failed = 0
    for name in options.files:
        display = _Display(name if len(options.files) > 1 else None, options.partials)
        try:
            with _opened(name, options) as recording:
                session = _session_options(options, recording.sample_rate, hot_words)
                is_paced = not (options.fast or recording.is_live)
                timing = asyncio.run(
                    recognise(server, recording.blocks, session, is_paced, display.result, given_endpoint(options))
                )
        except BrokenPipeError:
            raise
        except USER_ERRORS as error:
            if options.traceback:
                raise
            display.abandon()
            print(f"error: {name}: {error}".replace(f"{name}: {name}: ", f"{name}: "), file=sys.stderr)
            failed += 1
        else:
            display.end(timing, options.fast)
    return 1 if failed else 0


def _url(text: str) -> str:
    """The address with its scheme."""
    url = text if "://" in text else f"ws://{text}"
    try:
        parts = urlsplit(url)
        if parts.scheme in SCHEMES and parts.hostname and parts.port != 0:  # raises what is no number
            return url
    except ValueError:
        pass
    raise ValueError(
        f"'{text}' is no address of a server, expected HOST:PORT, or a URL with "
        f"{', '.join(f'{scheme}://' for scheme in SCHEMES)}"
    )


def _hot_words(options: argparse.Namespace) -> tuple[HotWord, ...]:
    given = given_hot_words(options)
    if given.problems:
        raise ValueError("; ".join(given.problems))
    if options.wenet and (
        given.usable or options.chunk is not None or options.left is not None or given_endpoint(options)
    ):
        raise ValueError(
            "a server of WeNet knows neither hot words nor chunks nor endpoints of a session; leave them out, or "
            "--wenet"
        )
    return given.usable


def _tls(authority: Path | None) -> ssl.SSLContext | None:
    if authority is None:
        return None
    if not authority.is_file():
        raise FileNotFoundError(f"{authority}: no such file")
    try:
        return ssl.create_default_context(cafile=authority)
    except ssl.SSLError as error:
        raise ValueError(f"{authority}: holds no PEM certificates ({error.reason})") from None


def _session_options(options: argparse.Namespace, sample_rate: int, hot_words: tuple[HotWord, ...]) -> SessionOptions:
    if options.wenet:
        return SessionOptions(continuous_decoding=True)
    return SessionOptions(
        continuous_decoding=True,
        sample_rate=sample_rate,
        sample_format=FLOAT32,
        chunk=options.chunk,
        left=options.left,
        hot_words=hot_words,
        timestamps=True,
    )


@contextlib.contextmanager
def _opened(name: str, options: argparse.Namespace) -> Iterator[_Recording]:
    if name == STANDARD_INPUT:
        with PcmPipe(sys.stdin.fileno(), options.rate) as pipe:
            blocks = pipe.blocks()
            first = next(blocks)  # tells the rate
            heard = (to_mono(block.samples) for block in itertools.chain([first], blocks))
            yield _at_rate(heard, first.sample_rate, options.wenet, is_live=True)
    else:
        with AudioReader(name) as reader:
            yield _at_rate(reader.blocks(BLOCK_SECONDS), reader.sample_rate, options.wenet, is_live=False)


def _at_rate(blocks: Iterator[np.ndarray], sample_rate: int, is_wenet: bool, is_live: bool) -> _Recording:
    if not is_wenet:
        return _Recording(sample_rate, blocks, is_live)
    return _Recording(SAMPLE_RATE, _resampled(blocks, Resampler(sample_rate, SAMPLE_RATE)), is_live)


def _resampled(blocks: Iterator[np.ndarray], resampler: Resampler) -> Iterator[np.ndarray]:
    for block in blocks:
        yield resampler.process(block)
    yield resampler.process(np.zeros(0, np.float32), last=True)


class _Display:
    """Shows what comes for one recording."""

    def __init__(self, name: str | None, prints_partials: bool) -> None:
        self._prefix = "" if name is None else f"{name}\t"
        self._label = "" if name is None else f"{name}: "
        self._prints_partials = prints_partials
        self._line = LiveLine(sys.stdout) if is_terminal(sys.stdout) and not prints_partials else None
        self._words: list[Word] = []  # of closed segments
        self._shown = ""

    def result(self, said: ServerResult) -> None:
        words = [Word(text, 0.0, 0.0, 1.0, spaced) for text, spaced in said.words] or (
            [Word(said.text, 0.0, 0.0, 1.0)] if said.text else []
        )  # a server of WeNet tells no words
        if said.is_final:
            self._words += words
        open_words = [] if said.is_final else words
        text = joined_words([*self._words, *open_words])
        if text == self._shown:
            return
        self._shown = text
        if self._line is not None:
            committed = joined_words([*self._words, *open_words[: said.committed]])
            self._line.draw(Piece(self._prefix.replace("\t", " ") + committed), Piece(text[len(committed) :], dim=True))
        elif self._prints_partials:
            print(f"{self._prefix}... {text}", flush=True)

    def end(self, timing: Timing, is_fast: bool) -> None:
        """The whole text, and how long it took."""
        self._clear()
        print(self._prefix + joined_words(self._words), flush=True)
        parts = [f"{timing.audio:.1f} s of audio"]
        if timing.delays and not is_fast:
            median, most = np.quantile(timing.delays, (0.5, 0.95))
            parts.append(
                f"text {median:.3f} s behind it (median; 95 % within {most:.3f} s, longest {max(timing.delays):.3f} s)"
            )
        parts.append(f"last text {timing.ending:.3f} s after the end")
        print(self._label + ", ".join(parts), file=sys.stderr, flush=True)

    def abandon(self) -> None:
        """What there is of a recording that failed."""
        self._clear()
        if self._words:
            print(self._prefix + joined_words(self._words), flush=True)

    def _clear(self) -> None:
        if self._line is not None:
            self._line.clear()
