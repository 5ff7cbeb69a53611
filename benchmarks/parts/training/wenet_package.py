"""Import WeNet's Python package, as shipped by Rev.com in rev-reverb 0.1.0, without its unneeded dependencies.

The package's __init__ is skipped, because it imports Rev.com's programs. Its modules import packages (wandb, whisper,
...) that neither models nor exports use; stubs replace these packages during the import.
"""

import functools
import importlib
import importlib.machinery
import importlib.util
import sys
import types
import typing
import warnings
from pathlib import Path

import torch

INSTALL = "pip install --no-deps{} rev-reverb==0.1.0"


def import_wenet(name: str, folder: Path | None = None) -> types.ModuleType:
    """Import a module of the package `wenet`.

    Args:
        name: name within the package, e.g. utils.init_model.
        folder: folder of the package; None: the installed one.

    Raises:
        ImportError: the package is missing, or needs packages that are not installed; the message has the remedy.
    """
    _prepare(folder)
    before = {stub: sys.modules.get(stub) for stub in _stubs()}
    try:
        sys.modules.update(_stubs())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(f"wenet.{name}")
    except ImportError as error:
        raise ImportError(
            f"WeNet's package cannot be imported ({error}): it needs torch, torchaudio, PyYAML"
        ) from error
    finally:
        for stub, module in before.items():
            sys.modules.pop(stub, None)
            if module is not None:
                sys.modules[stub] = module


def package_folder(folder: Path) -> Path:
    """Return the absolute folder of WeNet's package, and import the package from there.

    Raises:
        ValueError: the package cannot be imported; the message has the remedy.
    """
    try:
        import_wenet("utils.init_model", folder)
    except ImportError as error:
        raise ValueError(str(error)) from error
    return folder.resolve()


def _prepare(folder: Path | None) -> None:
    """Make `wenet` importable without running its __init__."""
    if "wenet" in sys.modules:
        return
    where = None if folder is None else [str(folder)]
    found = importlib.machinery.PathFinder.find_spec("wenet", where)
    if found is None or not found.submodule_search_locations:
        target = "" if folder is None else f" --target {folder}"
        holder = "no package wenet is installed" if folder is None else f"{folder}: holds no package wenet"
        raise ImportError(f"{holder}: {INSTALL.format(target)}")
    package = types.ModuleType("wenet")
    package.__path__ = list(found.submodule_search_locations)
    sys.modules["wenet"] = package
    # WeNet imports these names from torch.nn.modules.conv, which lacks them in newer versions of torch.
    for name in ("Optional", "Union"):
        vars(torch.nn.modules.conv).setdefault(name, getattr(typing, name))


@functools.cache
def _stubs() -> dict[str, types.ModuleType]:
    found = {name: types.ModuleType(name) for name in ("wandb", "typeguard", "whisper", "whisper.tokenizer")}
    found["typeguard"].check_argument_types = lambda: True
    found["whisper.tokenizer"].LANGUAGES = {}
    return found
