"""Call the command wenet-fusion, and import the scripts of tools/, which are in no package."""

import importlib.util
from pathlib import Path
from types import ModuleType

from wenet_fusion.cli.__main__ import main

TOOLS = Path(__file__).parents[3] / "tools"


def load_script(name: str) -> ModuleType:
    """Import the script `name`.py of any folder of tools/."""
    spec = importlib.util.spec_from_file_location(name, next(TOOLS.rglob(f"{name}.py")))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*arguments: object) -> int:
    """Call a verb of wenet-fusion in this process; a mistake of the user raises ValueError or OSError."""
    return main([str(argument) for argument in arguments])
