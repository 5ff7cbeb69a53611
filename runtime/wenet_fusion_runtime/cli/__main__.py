"""The command wenet-fusion-runtime: one file of `commands/` for each verb. Knows no decoding."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from wenet_fusion_runtime.cli import client, info, mic, serve, transcribe
from wenet_fusion_runtime.console import exit_status


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args(arguments)
    return exit_status(lambda: options.run(options), options.traceback)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wenet-fusion-runtime", description="Streaming speech recognition with an exported model."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("model", type=Path, metavar="MODEL", help="file written by: wenet-fusion export")
    common.add_argument("--traceback", action="store_true", help="show where an error came from")

    for command in (transcribe, mic, serve, client, info):
        command.add(commands, common)
    return parser


if __name__ == "__main__":
    sys.exit(main())
