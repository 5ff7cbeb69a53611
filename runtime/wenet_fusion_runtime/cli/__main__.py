"""The program wenet-fusion-runtime, with one module for each command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from wenet_fusion_runtime.cli import client, info, mic, serve, transcribe
from wenet_fusion_runtime.cli.command import PROGRAM
from wenet_fusion_runtime.cli.model_argument import parse_with_installed_model
from wenet_fusion_runtime.console import TRACEBACK_VARIABLE, HelpFormatter, exit_status, print_error


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the program with all its commands."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Recognise speech with an exported model: from files, a microphone, a pipe or a network.",
        epilog=f"Each command has its own help: {PROGRAM} transcribe --help",
        formatter_class=HelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (transcribe, mic, serve, client, info):
        module.add(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        options = parse_with_installed_model(build_parser(), given)
    except (OSError, ValueError) as error:
        if "--traceback" in given or os.environ.get(TRACEBACK_VARIABLE) == "1":
            raise
        print_error(error)
        return 1
    return exit_status(lambda: options.run(options), options.traceback)


if __name__ == "__main__":
    sys.exit(main())
