"""The command wenet-fusion-runtime: one file of `commands/` for each verb. Knows no decoding."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from wenet_fusion_runtime.cli import client, info, mic, serve, transcribe
from wenet_fusion_runtime.cli.recognition_arguments import USER_ERRORS


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except BrokenPipeError:
        # The reader of our output has gone. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except USER_ERRORS as error:
        if options.traceback:
            raise
        plain = isinstance(error, OSError) and error.filename and error.strerror  # without "[Errno 2]"
        print(f"error: {error.filename}: {error.strerror}" if plain else f"error: {error}", file=sys.stderr)
        return 1


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
