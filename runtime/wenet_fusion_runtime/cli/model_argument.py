"""Let commands that name no MODEL use the installed model."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

from wenet_fusion_runtime.model.wenet.wenet_files import model_paths
from wenet_fusion_runtime.search.modes import GREEDY
from wenet_fusion_runtime.stream.installed_model import installed_model

_TRANSCRIBE, _INFO = "transcribe", "info"
_COMMANDS = (_TRANSCRIBE, "mic", "serve", _INFO)
_NEED_NO_MODEL = {"-h", "--help", "--list_devices"}
_SUFFIXES = (".zip", ".onnx", ".pt", ".pt2")


def with_installed_model(arguments: Sequence[str]) -> list[str]:
    """Add the installed model, with its language model and weights, to a command line that names no model.

    A word counts as a model if it ends like an exported file, is an archive, or is a folder that holds a model. Without
    an installed model, a command line is returned as it is if it may be complete.

    Args:
        arguments: the command and its arguments.

    Raises:
        FileNotFoundError: the command needs a model, and none is named or installed.
        ValueError: the installed package is damaged.
    """
    given = list(arguments)
    if not given or given[0] not in _COMMANDS or _NEED_NO_MODEL & set(given) or any(map(_is_model, given[1:])):
        return given
    command, *rest = given
    words = [each for each in rest if not each.startswith("-")]
    first_is_word = bool(rest) and not rest[0].startswith("-")
    if command != _TRANSCRIBE and first_is_word:
        return given  # a wrong MODEL, which its command reports
    try:
        installed = installed_model()
    except FileNotFoundError:
        if len(words) > (command == _TRANSCRIBE):
            return given
        raise
    added = [str(installed.path)]
    uses_words = command != _INFO and GREEDY not in rest and not any(each.startswith("--lang") for each in rest)
    if installed.language_model is not None and uses_words:
        added += ["--language_model", str(installed.language_model)]
        added += ["--lm_weight", str(installed.lm_weight), "--word_bonus", str(installed.word_bonus)]
    return [command, *added, *rest]


def _is_model(word: str) -> bool:
    path = Path(word)
    if path.suffix in _SUFFIXES:
        return True
    try:
        return bool(path.is_dir() and model_paths(path)) or zipfile.is_zipfile(path)
    except OSError:
        return False
