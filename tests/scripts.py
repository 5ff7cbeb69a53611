"""Calls the command, and imports the scripts of tools/, which are not in a package."""

import importlib.util
from pathlib import Path
from types import ModuleType

from wenet_fusion.cli import main

TOOLS = Path(__file__).parent.parent / "tools"


def load_script(name: str) -> ModuleType:
    """The module of tools/<name>.py."""
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*arguments: object) -> int:
    """Calls a verb of wenet-fusion in this process; a mistake of the user raises ValueError or OSError."""
    return main([str(argument) for argument in arguments])
