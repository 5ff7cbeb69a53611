"""The command `client`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import ssl
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np

from wenet_fusion_runtime.audio.live_audio import AudioBlock
from wenet_fusion_runtime.audio.pcm_pipe import ARECORD, RAW_RATE, PcmPipe
from wenet_fusion_runtime.audio.reader import AudioReader
from wenet_fusion_runtime.audio.resampling import CANCELLED, ChannelMixer, Resampler
from wenet_fusion_runtime.cli.client_display import ClientDisplay
from wenet_fusion_runtime.cli.command import PROGRAM, Commands, add_command, extra_needed
from wenet_fusion_runtime.cli.endpoint_arguments import add_endpoint_arguments, given_endpoint
from wenet_fusion_runtime.cli.hot_word_files import HotWordFiles
from wenet_fusion_runtime.cli.search_arguments import (
    add_context_argument,
    add_grammar_argument,
    add_hot_word_arguments,
    given_hot_words,
    read_context,
)
from wenet_fusion_runtime.cli.serve import TOKEN_VARIABLE, read_token
from wenet_fusion_runtime.console import USER_ERRORS
from wenet_fusion_runtime.search.grammar.grammar import read_grammar
from wenet_fusion_runtime.search.hot_words import HotWord
from wenet_fusion_runtime.server.session_options import FLOAT32, SAMPLE_RATE, SessionOptions
from wenet_fusion_runtime.stream.endpoints import LONGEST_SECONDS

BLOCK_SECONDS = 0.1  # audio per message; results do not depend on it
FAST_BLOCK_SECONDS = 0.5  # audio per message with --fast; longer, because a server may limit messages per second
STANDARD_INPUT = "-"
SCHEMES = ("ws", "wss", "http", "https")


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    client = add_command(
        commands,
        "client",
        _client,
        "Send recordings to a server and print their text. The server is wenet-fusion-runtime serve or, with --wenet, "
        "WeNet's. Audio is sent in real time unless --fast is given. Standard output gets one line per recording, "
        "standard error the delays. If a recording fails, its error is printed, the others are sent, and the exit "
        "status is 1.",
        [
            "localhost:10086 recording.flac",
            "localhost:10086 *.wav --fast --hot_word Anna=2",
            "localhost:10086 command.wav --grammar commands.jsgf",
            f"{ARECORD} | {PROGRAM} client localhost:10086 -",
        ],
        needs_model=False,
    )
    client.add_argument(
        "url", metavar="URL", help="address of the server: HOST:PORT, or a URL with ws://, wss://, http:// or https://"
    )
    client.add_argument(
        "files",
        nargs="+",
        metavar="FILE|-",
        help="audio file (wav, flac, ogg, opus, mp3, ...); - reads standard input: raw 16-bit samples, or wav",
    )
    client.add_argument("--fast", action="store_true", help="send as fast as the server reads")
    client.add_argument("--partials", action="store_true", help="print each new partial text on a line of its own")
    client.add_argument("--chunk", type=int, metavar="FRAMES", help="encoder frames per chunk; default: the server's")
    client.add_argument(
        "--left",
        type=int,
        metavar="CHUNKS",
        help="chunks of left context; default: the server's, or with --chunk the largest number used in training",
    )
    client.add_argument(
        "--rate", type=int, metavar="HZ", help=f"sample rate of raw samples from standard input; default: {RAW_RATE}"
    )
    client.add_argument(
        "--channel",
        type=int,
        metavar="N",
        help="channel to recognise, from 1; 0 is the mean of all (default: the mean, and an error if the channels "
        "cancel each other in it)",
    )
    client.add_argument(
        "--wenet",
        action="store_true",
        help="the server is WeNet's: send 16-bit audio at 16 kHz and no protocol extensions",
    )
    client.add_argument(
        "--token_file",
        type=Path,
        metavar="FILE",
        help=f"file with the server's token (default: the token in ${TOKEN_VARIABLE}, if it is set)",
    )
    client.add_argument(
        "--authority",
        type=Path,
        metavar="FILE",
        help="PEM file of the authorities that may sign the server's certificate (default: the system's)",
    )
    client.add_argument(
        "--reconnect_seconds",
        type=float,
        default=30.0,
        metavar="S",
        help="after a lost connection, try for S seconds to connect again and go on after the last final text; audio "
        "from standard input is kept meanwhile; 0: do not try (default: %(default)g)",
    )
    add_hot_word_arguments(client)
    add_context_argument(client)
    add_grammar_argument(client)
    client.add_argument(
        "--follow",
        action="store_true",
        help="send the files of --hot_words and --context again when they change during a recording",
    )
    add_endpoint_arguments(client, None)


class _Recording(NamedTuple):
    sample_rate: int
    blocks: Iterator[np.ndarray]  # float32, mono
    is_live: bool  # the audio arrives in real time
    stop: Callable[[], object] = lambda: None  # ends the blocks, even while they wait for audio


def _client(options: argparse.Namespace) -> int:
    try:
        from wenet_fusion_runtime.server.websocket.websocket_client import Recording, ServerAddress, recognise
    except ImportError as error:
        raise extra_needed("the client", "server", error) from None
    if options.files.count(STANDARD_INPUT) > 1:
        raise ValueError("standard input can be read only once; give - once")
    if STANDARD_INPUT in options.files and sys.stdin.isatty():
        raise ValueError(
            f"- reads audio from a pipe, and standard input is a terminal: {ARECORD} | wenet-fusion-runtime "
            f"client {options.url} -"
        )
    files = HotWordFiles(options) if options.follow else None  # before the files are read, to notice every change
    hot_words = _hot_words(options)
    context = "" if options.context is None else read_context(options.context)
    grammar = None if options.grammar is None else read_grammar(options.grammar)
    if options.follow and options.hot_words is None and options.context is None:
        raise ValueError("--follow needs a file to follow: give --hot_words FILE or --context FILE")
    if not 0 <= options.reconnect_seconds <= LONGEST_SECONDS:
        raise ValueError(f"--reconnect_seconds must be 0 to {LONGEST_SECONDS:g}, found {options.reconnect_seconds:g}")
    token, tls = read_token(options.token_file), _tls(options.authority)
    server = ServerAddress(_url(options.url), token, tls, options.reconnect_seconds)
    failed = 0
    for name in options.files:
        display = ClientDisplay(name if len(options.files) > 1 else None, options.partials)
        try:
            with _opened(name, options) as recording:
                session = _session_options(options, recording.sample_rate, hot_words, context)
                session = replace(session, grammar=grammar)
                if files is not None and files.latest is not None:
                    session = files.latest.applied(session)
                is_paced = not (options.fast or recording.is_live)
                timing = asyncio.run(
                    recognise(
                        server,
                        Recording(recording.blocks, is_paced, recording.is_live, recording.stop),
                        session,
                        display.result,
                        given_endpoint(options),
                        files,
                        display.note,
                    )
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
    """Return the server's address as a URL. Raises ValueError if it is not valid."""
    url = text if "://" in text else f"ws://{text}"
    try:
        parts = urlsplit(url)
        if parts.scheme in SCHEMES and parts.hostname and parts.port != 0:  # `port` may raise ValueError
            return url
    except ValueError:
        pass
    raise ValueError(
        f"'{text}' is not the address of a server, expected HOST:PORT, or a URL with "
        f"{', '.join(f'{scheme}://' for scheme in SCHEMES)}"
    )


def _hot_words(options: argparse.Namespace) -> tuple[HotWord, ...]:
    given = given_hot_words(options)
    if given.problems:
        raise ValueError("; ".join(given.problems))
    biases = bool(given.usable) or options.context is not None or options.grammar is not None
    if options.wenet and (biases or options.chunk is not None or options.left is not None or given_endpoint(options)):
        raise ValueError(
            "WeNet's server takes no hot words, grammars, chunks or endpoint rules from a client, and no context: "
            "omit these options, or omit --wenet if the server is wenet-fusion-runtime"
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
        raise ValueError(f"{authority}: has no PEM certificates ({error.reason})") from None


def _session_options(
    options: argparse.Namespace, sample_rate: int, hot_words: tuple[HotWord, ...], context: str
) -> SessionOptions:
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
        context=context,
    )


@contextlib.contextmanager
def _opened(name: str, options: argparse.Namespace) -> Iterator[_Recording]:
    if name == STANDARD_INPUT:
        with PcmPipe(sys.stdin.fileno(), options.rate) as pipe:
            blocks = pipe.blocks()
            first = next(blocks)  # holds the sample rate
            mono = _mono(itertools.chain([first], blocks), options.channel)
            yield _at_rate(mono, first.sample_rate, options.wenet, is_live=True)._replace(stop=pipe.stop)
    else:
        with AudioReader(name, channel=options.channel) as reader:
            seconds = FAST_BLOCK_SECONDS if options.fast else BLOCK_SECONDS
            yield _at_rate(reader.blocks(seconds), reader.sample_rate, options.wenet, is_live=False)


def _mono(blocks: Iterator[AudioBlock], channel: int | None) -> Iterator[np.ndarray]:
    mixer = ChannelMixer(channel)
    for block in blocks:
        yield mixer.mix(block.samples)
    if mixer.cancels:
        raise ValueError(CANCELLED)


def _at_rate(blocks: Iterator[np.ndarray], sample_rate: int, is_wenet: bool, is_live: bool) -> _Recording:
    if not is_wenet:
        return _Recording(sample_rate, blocks, is_live)
    return _Recording(SAMPLE_RATE, _resampled(blocks, Resampler(sample_rate, SAMPLE_RATE)), is_live)


def _resampled(blocks: Iterator[np.ndarray], resampler: Resampler) -> Iterator[np.ndarray]:
    for block in blocks:
        yield resampler.process(block)
    yield resampler.process(np.zeros(0, np.float32), last=True)
