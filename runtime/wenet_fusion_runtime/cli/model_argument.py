"""Let commands that name no MODEL use the installed model."""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Sequence
from pathlib import Path

from wenet_fusion_runtime.cli.command import Commands
from wenet_fusion_runtime.model.wenet.wenet_files import model_paths
from wenet_fusion_runtime.stream.decoding_options import LANGUAGE_MODEL_WEIGHTS
from wenet_fusion_runtime.stream.installed_model import installed_model

_TRANSCRIBE, _SERVE, _INFO = "transcribe", "serve", "info"
_COMMANDS = (_TRANSCRIBE, "mic", _SERVE, _INFO)
_PRINTS_AND_EXITS = {"help", "list_devices"}
_SUFFIXES = (".zip", ".onnx", ".pt", ".pt2")


def parse_with_installed_model(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; if it names no MODEL, use the installed model, its language model and search options.

    The first positional argument of `transcribe` is a MODEL if it has the suffix of an exported file, is an archive, or
    is a folder that holds a model. Without an installed model, two or more positional arguments begin with the MODEL.

    Args:
        parser: the program's parser.
        arguments: the command and its arguments.

    Raises:
        FileNotFoundError: the command needs a model, and none is named or installed.
        ValueError: the installed package is damaged; only `info` also compares the file with its SHA-256.
    """
    commands = next(action.choices for action in parser._actions if isinstance(action, Commands))
    command, *rest = arguments or [""]
    words = _positional(commands[command], rest) if command in _COMMANDS else None
    if words is None or (words and (command != _TRANSCRIBE or _is_model(words[0]))):
        return parser.parse_args(arguments)
    try:
        installed = installed_model()
    except FileNotFoundError:
        if len(words) > 1:
            return parser.parse_args(arguments)
        raise
    options = parser.parse_args([command, str(installed.path), *rest])
    if command == _INFO:
        installed.check_file()
        options.card = installed.card
    elif command == _SERVE:
        options.example = installed.example if options.example is None else options.example
    if command == _INFO:
        return options
    if options.confidence_threshold is None:
        options.confidence_threshold = installed.confidence_threshold
    if options.beam_size is None:
        options.beam_size = installed.beam_size
    if options.language_model is not None:
        return options
    options.language_model = installed.language_model_for(options.mode)
    if options.language_model is not None:
        for name in LANGUAGE_MODEL_WEIGHTS:
            if getattr(options, name) is None:
                setattr(options, name, getattr(installed, name))
    return options


def _positional(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> list[str] | None:
    """Return the arguments that are neither options nor their values; None if an option only prints and exits."""
    words, rest = list[str](), iter(arguments)
    for each in rest:
        if each == "--":
            return [*words, *rest]
        if each == "-" or not each.startswith("-"):
            words.append(each)
            continue
        name, equals, _ = each.partition("=")
        options = parser._option_string_actions
        found = options.get(name) or next((options[other] for other in options if other.startswith(name)), None)
        if found is not None and found.dest in _PRINTS_AND_EXITS:
            return None
        if found is not None and found.nargs != 0 and not equals:
            next(rest, None)
    return words


def _is_model(word: str) -> bool:
    path = Path(word)
    if path.suffix in _SUFFIXES:
        return True
    try:
        # A pipe is not opened: its writer would fail when it is closed again.
        return bool(path.is_dir() and model_paths(path)) or (path.is_file() and zipfile.is_zipfile(path))
    except OSError:
        return False
