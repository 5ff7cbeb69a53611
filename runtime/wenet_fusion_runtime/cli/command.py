"""Build commands of the command line: help, examples, the model argument and --traceback."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from wenet_fusion_runtime.console import HelpFormatter, unusable_package
from wenet_fusion_runtime.files import check_sha256
from wenet_fusion_runtime.model.backends import AUTO, BACKENDS
from wenet_fusion_runtime.model.wenet.wenet_files import model_paths

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
        commands: the commands of the program's parser.
        name: name of the command.
        run: called with the parsed arguments; returns the exit status.
        description: text of --help; the list of commands shows its first sentence.
        examples: arguments of the command, or whole command lines that name the program.
        needs_model: the first argument is a model file.
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
        command.add_argument(
            "model",
            type=Path,
            metavar="MODEL",
            help="model file that wenet-fusion export wrote; or a model of WeNet: final.zip, encoder.onnx, a streaming "
            "file for sherpa-onnx, or their folder (default: the package wenet_fusion_model if it is installed, "
            "else the runtime's own model; with its language model and search options)",
        )
        command.add_argument(
            "--units",
            type=Path,
            metavar="FILE",
            help="vocabulary of a WeNet model (default: units.txt, tokens.txt or lang_char.txt beside it)",
        )
        command.add_argument(
            "--backend",
            choices=BACKENDS,
            default=AUTO,
            help="what runs the model: native (int8 ONNX archives), onnxruntime (ONNX archives), torch (TorchScript); "
            "auto: native if it is installed and was measured to be faster on this kind of processor, else the "
            "file's usual one (default: auto)",
        )
        command.add_argument(
            "--require_sha256",
            metavar="HASH",
            help="load the model only if its file has this SHA-256, which the command info prints: a TorchScript file "
            "is a program that runs when it is loaded (default: load any file)",
        )
    command.add_argument("--traceback", action="store_true", help="print the traceback of an error")
    command.set_defaults(run=lambda options: _run_checked(run, options))
    return command


def _run_checked(run: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    """Compare the model file with --require_sha256, then run the command."""
    if getattr(options, "require_sha256", None) is not None:
        first, *others = model_paths(options.model)
        check_sha256(first, options.require_sha256, *others)
    return run(options)


def extra_needed(user: str, extra: str, error: ImportError) -> ImportError:
    """Return the error to raise when a package of an extra is missing; errors of our own modules stay unchanged.

    Args:
        user: the part of the program that needs the package, for the message.
        extra: name of the extra in pyproject.toml.
        error: exception of the import.
    """
    if error.name is None or error.name.startswith("wenet_fusion_runtime"):
        return error
    package = error.name.partition(".")[0]
    missing = f"{user} needs {package}, which is not installed: pip install 'wenet-fusion-runtime[{extra}]'"
    return unusable_package(package, missing, error)
