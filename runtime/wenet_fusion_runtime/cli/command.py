"""Build commands of the command line: help, examples, the model argument and --traceback."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from wenet_fusion_runtime.console import HelpFormatter

PROGRAM = "wenet-fusion-runtime"
Commands = argparse._SubParsersAction  # argparse has no public name for it


def add_command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int],
    description: str,
    examples: Sequence[str],
    needs_model: bool = True,
) -> argparse.ArgumentParser:
    """Add a command to the parser and return the command's own parser.

    Args:
        commands: of the whole parser.
        name: the verb.
        run: called with the parsed arguments; returns the exit status.
        description: text of --help; its first sentence also stands in the list of commands.
        examples: command lines, without the program's name unless they begin with another program.
        needs_model: whether the first argument is a model file.
    """
    lines = [line if PROGRAM in line else f"{PROGRAM} {name} {line}" for line in examples]
    command = commands.add_parser(
        name,
        help=description.partition(".")[0].replace("%", "%%"),
        description=description,
        epilog="\n".join(["examples:", *(f"  {line}" for line in lines)]),
        formatter_class=HelpFormatter,
    )
    if needs_model:
        command.add_argument("model", type=Path, metavar="MODEL", help="model file, from: wenet-fusion export")
    command.add_argument("--traceback", action="store_true", help="print the traceback of an error")
    command.set_defaults(run=run)
    return command


def extra_needed(user: str, extra: str, error: ImportError) -> ImportError:
    """Return the error to raise when a package of an extra is missing; errors of our own modules stay as they are.

    Args:
        user: what needs the package, for the message.
        extra: its name in pyproject.toml.
        error: as raised by the import.
    """
    if error.name is None or error.name.startswith("wenet_fusion_runtime"):
        return error
    return ImportError(
        f"{user} needs {error.name}, which is not installed: pip install 'wenet-fusion-runtime[{extra}]'"
    )
