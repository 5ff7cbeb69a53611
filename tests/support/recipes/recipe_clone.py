"""Copies of the recipes that run the packages of this clone."""

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[3]
RECIPE = Path("examples/digits/s0")
TEMPLATE = Path("examples/template/s0")
LIBRISPEECH = Path("examples/librispeech/s0")
AISHELL = Path("examples/aishell/s0")


def clone_recipe(root: Path, recipe: Path = RECIPE) -> None:
    """Copy tools and one recipe to `root`, without data and experiments; the environment is not checked there."""
    shutil.copytree(ROOT / "tools", root / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / recipe, root / recipe, ignore=shutil.ignore_patterns("__pycache__", "data", "exp"))
    (root / "tools" / "check_environment.py").write_text("print('installed')\n")
