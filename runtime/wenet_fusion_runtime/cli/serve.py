"""The command `serve`: speech to text for many clients over a network. Knows no sockets and no protocol."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable
from pathlib import Path

from wenet_fusion_runtime.cli.recognition_arguments import (
    Commands,
    add_recognition_flags,
    build_recognizer,
    create_stream,
    extra_needed,
)
from wenet_fusion_runtime.engine.engine import EngineOptions
from wenet_fusion_runtime.server.access import Access
from wenet_fusion_runtime.server.bind import BindOptions, bind
from wenet_fusion_runtime.server.limits import Limits
from wenet_fusion_runtime.server.settings import SERVER_OPTIONS, ChunkChoice, Settings

TOKEN_VARIABLE = "WENET_FUSION_TOKEN"


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser."""
    serve = commands.add_parser(
        "serve",
        parents=[common],
        help="a server: WebSocket, HTTP, and a page for browsers",
        description="Serve WeNet's WebSocket protocol, uploads (POST /transcribe), /info, /healthz, /metrics and a page with "
        "a microphone at /. SIGTERM or Ctrl-C lets open sessions finish, a second one ends at once. Every limit "
        "is a flag; a client that exceeds one is told which.",
    )
    _add_listening(serve.add_argument_group("address"))
    _add_access(serve.add_argument_group("access"))
    _add_limits(serve.add_argument_group("limits"))
    _add_engine(serve.add_argument_group("engine"))
    serve.add_argument(
        "--log_level",
        choices=["debug", "info", "warning", "error"],
        default="info",
        help="what is written to stderr (default: %(default)s: a line for each client)",
    )
    add_recognition_flags(serve, SERVER_OPTIONS)
    serve.set_defaults(run=_serve)


def read_token(path: Path | None) -> str | None:
    """The token in a file or, without one, in the environment; None if there is none.

    Raises:
        OSError, ValueError: the file cannot be read or is empty.
    """
    if path is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    token = path.read_text(encoding="utf-8", errors="replace").strip()
    if not token:
        raise ValueError(f"{path}: is empty, expected a token")
    return token


def _add_listening(group: argparse._ArgumentGroup) -> None:
    defaults = BindOptions()
    group.add_argument(
        "--host",
        default=defaults.host,
        metavar="NAME",
        help="address or name to listen on; 0.0.0.0: all of IPv4, :: all of IPv6 (default: %(default)s, "
        "this computer only)",
    )
    group.add_argument("--port", type=int, default=defaults.port, help="0: any that is free (default: %(default)s)")
    group.add_argument(
        "--reuse_port",
        action="store_true",
        help="share the port with other processes that say so too; the system spreads the clients",
    )
    group.add_argument("--certificate", type=Path, metavar="FILE", help="PEM certificate with its chain: speak TLS")
    group.add_argument("--key", type=Path, metavar="FILE", help="its private key, if it is in a file of its own")
    group.add_argument(
        "--drain_seconds",
        type=float,
        default=Settings().drain_seconds,
        metavar="S",
        help="that open sessions get to finish after SIGTERM (default: %(default)g)",
    )


def _add_access(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--token_file",
        type=Path,
        metavar="FILE",
        help=f"clients must show the token in it (default: that of ${TOKEN_VARIABLE}, if it is set)",
    )
    group.add_argument(
        "--allowed_origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="web pages of it may use the server too, e.g. https://example.org; may be repeated; '*': "
        "all (default: only the server's own)",
    )


def _add_limits(group: argparse._ArgumentGroup) -> None:
    defaults = Limits()
    for flag, name, kind, meaning in _LIMITS:
        group.add_argument(
            f"--{flag}",
            type=kind,
            default=getattr(defaults, name),
            dest=name,
            metavar="S" if kind is float else "N",
            help=f"{meaning} (default: %(default)g)" if kind is float else f"{meaning} (default: %(default)d)",
        )


_LIMITS: tuple[tuple[str, str, Callable[[str], float], str], ...] = (
    ("max_sessions", "sessions", int, "sessions open at once, uploads included"),
    ("max_message_bytes", "message_bytes", int, "of one WebSocket message"),
    ("max_upload_bytes", "upload_bytes", int, "of an audio file"),
    ("max_upload_seconds", "upload_seconds", float, "from an upload's first to its last byte"),
    ("max_audio_seconds", "audio_seconds", float, "of audio in a session or an upload"),
    ("start_seconds", "start_seconds", float, "from a connection to its start signal, or to the end of its request"),
    (
        "idle_seconds",
        "idle_seconds",
        float,
        "in which a client that should send brings less than a hundredth of it in audio",
    ),
    ("send_seconds", "send_seconds", float, "until a client takes what is sent to it"),
)


def _add_engine(group: argparse._ArgumentGroup) -> None:
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
        help="streams in one step of the model (default: %(default)d)",
    )
    group.add_argument(
        "--max_wait_seconds",
        type=float,
        metavar="S",
        default=defaults.max_wait_seconds,
        help="that a chunk waits for others to share its step (default: %(default)g)",
    )
    group.add_argument(
        "--batch_dynamic",
        action="store_true",
        help="batch int8-dynamic files too, whose texts then depend on what else is recognised",
    )


def _serve(options: argparse.Namespace) -> int:
    try:
        from wenet_fusion_runtime.server.server import run
    except ImportError as error:
        raise extra_needed("the server", "server", error) from None
    settings = Settings(
        BindOptions(options.host, options.port, options.reuse_port, options.certificate, options.key),
        Limits(**{name: getattr(options, name) for _, name, _, _ in _LIMITS}),
        Access(read_token(options.token_file), tuple(options.allowed_origin)),
        ChunkChoice(options.chunk, options.left, options.allow_untrained),
        EngineOptions(
            workers=options.workers,
            max_batch=options.max_batch,
            max_wait_seconds=options.max_wait_seconds,
            batch_dynamic=options.batch_dynamic,
        ),
        options.drain_seconds,
    )
    logging.basicConfig(level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    sockets = bind(settings.bind)  # a port that is taken is known before the model is loaded
    recognizer, _ = build_recognizer(options)
    create_stream(recognizer, options)  # a wrong chunk is no client's fault
    run(recognizer, options.model.name, settings, sockets, _announce)
    return 0


def _announce(urls: list[str]) -> None:
    for url in urls:
        print(f"listening on {url}", flush=True)
