"""The command `serve`."""

from __future__ import annotations

import argparse
import gc
import os
from collections.abc import Callable
from pathlib import Path

from wenet_fusion_runtime.cli.command import Commands, add_command, extra_needed
from wenet_fusion_runtime.cli.recognition_arguments import add_recognition_arguments, build_recognizer, create_stream
from wenet_fusion_runtime.engine.engine import EngineOptions
from wenet_fusion_runtime.server.access import Access, check_token
from wenet_fusion_runtime.server.bind import BindOptions, bind
from wenet_fusion_runtime.server.guard.addresses import LOCAL, Proxies
from wenet_fusion_runtime.server.guard.server_log import start_log
from wenet_fusion_runtime.server.limits import Limits
from wenet_fusion_runtime.server.settings import SERVER_OPTIONS, ChunkChoice, ModelTitle, Settings

TOKEN_VARIABLE = "WENET_FUSION_TOKEN"
# A collection looks at the objects of all sessions, while no session goes on. Sessions make many objects and hardly any
# garbage that only a collection frees, so collections are rare. Objects before the first one, and collections of each
# kind before the next kind:
COLLECTIONS = (20_000, 20, 10)

_LIMITS: tuple[tuple[str, str, Callable[[str], float], str], ...] = (  # argument, field of Limits, type, help
    ("max_sessions", "sessions", int, "refuse new sessions and uploads while this many are open"),
    ("max_message_bytes", "message_bytes", int, "refuse WebSocket messages of more bytes"),
    ("max_upload_bytes", "upload_bytes", int, "refuse uploaded audio files of more bytes"),
    ("max_upload_seconds", "upload_seconds", float, "end uploads that take longer to arrive"),
    ("max_audio_seconds", "audio_seconds", float, "end sessions and uploads whose audio is longer"),
    (
        "start_seconds",
        "start_seconds",
        float,
        "close connections that send neither a start signal (WebSocket) nor a complete header (HTTP) within this time",
    ),
    ("idle_seconds", "idle_seconds", float, "close sessions that send less than 1 %% of real time for this long"),
    ("send_seconds", "send_seconds", float, "disconnect clients that read no message for this long"),
    (
        "progress_seconds",
        "progress_seconds",
        float,
        "end an upload whose audio makes no progress for this long, in its decoder or in the recogniser",
    ),
    (
        "max_address_sessions",
        "address_sessions",
        int,
        "sessions open at once for one address, uploads included (default: half of --max_sessions)",
    ),
    (
        "max_decoders",
        "decoders",
        int,
        "audio files whose format is decoded at the same time; others wait (default: one per core)",
    ),
    (
        "max_frames_per_second",
        "frames_per_second",
        float,
        "WebSocket frames or HTTP requests of one connection per second; further ones wait; a ping or an empty frame "
        "counts as 10",
    ),
    ("max_bytes_per_second", "bytes_per_second", float, "bytes of one connection per second; further ones wait"),
)


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    serve = add_command(
        commands,
        "serve",
        _serve,
        "Serve an exported model over WebSocket and HTTP. The server speaks WeNet's WebSocket protocol, transcribes "
        "uploads (POST /transcribe), answers /info, /healthz and /metrics, and has a page with a microphone at /. "
        "SIGTERM, SIGHUP or Ctrl-C lets open sessions finish; a second one ends the server within seconds.",
        [
            "final.zip",
            "final.zip --host 0.0.0.0 --port 8080 --workers 4 --token_file token",
            "final.zip --grammar commands.jsgf",
        ],
    )
    _add_bind_arguments(serve.add_argument_group("address"))
    _add_access_arguments(serve.add_argument_group("access"))
    _add_limit_arguments(
        serve.add_argument_group("limits", "A client that exceeds a limit waits, is disconnected, or gets an error.")
    )
    _add_engine_arguments(serve.add_argument_group("engine"))
    serve.add_argument(
        "--example",
        metavar="TEXT",
        help="a sentence that the page suggests to say "
        "(default: that of the package wenet_fusion_model if it is served)",
    )
    serve.add_argument(
        "--log_level",
        choices=["debug", "info", "warning", "error"],
        default="info",
        help="least severity of messages on standard error; info logs a line per client",
    )
    add_recognition_arguments(serve, SERVER_OPTIONS)


def read_token(path: Path | None) -> str | None:
    """Return the token in a file or, without a file, in the variable WENET_FUSION_TOKEN, stripped of outer spaces.

    Returns:
        The token; None if there is no file, and the variable is not set or empty.

    Raises:
        OSError: the file cannot be read.
        ValueError: there is no token in the file or the variable, or it has spaces, control or non-ASCII characters.
    """
    if path is None:
        text, source = os.environ.get(TOKEN_VARIABLE, ""), TOKEN_VARIABLE
        if not text:
            return None
    else:
        text, source = path.read_text(encoding="utf-8", errors="replace"), str(path)
    token = text.strip()
    if not token:
        raise ValueError(f"{source}: is empty, expected a token")
    try:
        check_token(token)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    return token


def _add_bind_arguments(group: argparse._ArgumentGroup) -> None:
    defaults = BindOptions()
    group.add_argument(
        "--host",
        default=defaults.host,
        metavar="NAME",
        help="address or name to listen on; 0.0.0.0 for all of IPv4, :: for all of IPv6 and IPv4 (default: "
        "%(default)s, this computer only)",
    )
    group.add_argument("--port", type=int, default=defaults.port, help="port to listen on; 0 for any free port")
    group.add_argument(
        "--reuse_port",
        action="store_true",
        help="let several processes listen on the same port (SO_REUSEPORT); Linux distributes clients among them, "
        "other systems may give all clients to one process",
    )
    group.add_argument(
        "--certificate", type=Path, metavar="FILE", help="PEM file with the certificate chain; turns TLS on"
    )
    group.add_argument(
        "--key", type=Path, metavar="FILE", help="private key in PEM; needed if --certificate does not contain it"
    )
    group.add_argument(
        "--drain_seconds",
        type=float,
        default=Settings().drain_seconds,
        metavar="S",
        help="time for open sessions to finish after SIGTERM, SIGHUP or Ctrl-C",
    )


def _add_access_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--token_file",
        type=Path,
        metavar="FILE",
        help=f"file with the token that clients must send (default: the token in ${TOKEN_VARIABLE}, if it is set)",
    )
    group.add_argument(
        "--allowed_origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="origin whose web pages may use the server, e.g. https://example.org; may be repeated; '*' allows all "
        "(default: only the server's own)",
    )
    group.add_argument(
        "--allowed_hosts",
        type=_names,
        default=(),
        metavar="NAMES",
        help="comma-separated names that clients may use for this server (header Host), e.g. speech.example.org; '*' "
        "allows all (default: addresses, localhost and names without a dot)",
    )
    group.add_argument(
        "--trusted_proxies",
        type=_names,
        default=LOCAL,
        metavar="ADDRESSES",
        help="comma-separated addresses or networks of proxies, whose header X-Forwarded-For names the client "
        f"(default: {','.join(LOCAL)})",
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (name.strip() for name in text.split(","))))


def own_names(host: str) -> tuple[str, ...]:
    """Return `--host` as a name to allow; nothing for addresses and short names, which are always allowed.

    >>> own_names("::"), own_names("0.0.0.0"), own_names("speech.example.org")
    ((), (), ('speech.example.org',))
    """
    return () if Access().allows_host(f"[{host}]" if ":" in host else host) else (host,)


def _add_limit_arguments(group: argparse._ArgumentGroup) -> None:
    defaults = Limits()
    for name, field, kind, text in _LIMITS:
        shown = "%(default).15g" if kind is float else "%(default)d"
        group.add_argument(
            f"--{name}",
            type=kind,
            default=getattr(defaults, field),
            dest=field,
            metavar="S" if name.endswith("_seconds") else "N",
            help=text if "(default: " in text else f"{text} (default: {shown})",
        )


def _add_engine_arguments(group: argparse._ArgumentGroup) -> None:
    defaults = EngineOptions()
    group.add_argument(
        "--workers",
        type=int,
        metavar="N",
        default=max(1, (os.cpu_count() or 1) - 1),
        help="threads that run the model, each on one core (default: all cores but one, %(default)d here)",
    )
    group.add_argument(
        "--max_batch",
        type=int,
        metavar="N",
        default=defaults.max_batch,
        help="largest number of streams in one step of the model",
    )
    group.add_argument(
        "--max_wait_seconds",
        type=float,
        metavar="S",
        default=defaults.max_wait_seconds,
        help="longest time that a chunk waits to be batched with other streams (default: %(default)g)",
    )
    group.add_argument(
        "--batch_dynamic",
        action="store_true",
        help="batch int8-dynamic models too, although their texts then depend on the other streams of the batch",
    )


def _serve(options: argparse.Namespace) -> int:
    try:
        from wenet_fusion_runtime.server.server import run
    except ImportError as error:
        raise extra_needed("the server", "server", error) from None
    settings = Settings(
        BindOptions(options.host, options.port, options.reuse_port, options.certificate, options.key),
        Limits(**{name: getattr(options, name) for _, name, _, _ in _LIMITS}),
        Access(
            read_token(options.token_file),
            tuple(options.allowed_origin),
            (*options.allowed_hosts, *own_names(options.host)),
        ),
        Proxies(options.trusted_proxies),
        ChunkChoice(options.chunk, options.left, options.allow_untrained),
        EngineOptions(
            workers=options.workers,
            max_batch=options.max_batch,
            max_wait_seconds=options.max_wait_seconds,
            batch_dynamic=options.batch_dynamic,
        ),
        options.drain_seconds,
    )
    start_log(options.log_level)
    sockets = bind(settings.bind)  # fail before the model is loaded if the port is taken
    recognizer, _ = build_recognizer(options)
    create_stream(recognizer, options)  # fail now, not at the first client, if the chunk is wrong
    gc.set_threshold(*COLLECTIONS)
    run(recognizer, ModelTitle(options.model.name, options.example or ""), settings, sockets, _announce)
    return 0


def _announce(urls: list[str]) -> None:
    for url in urls:
        print(f"listening on {url}", flush=True)
