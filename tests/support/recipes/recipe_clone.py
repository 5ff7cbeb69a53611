"""A copy of the digits recipe that runs the packages of this clone; knows no test."""

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[3]
RECIPE = Path("examples/digits/s0")


def clone_recipe(root: Path) -> None:
    """Copies tools and recipe to `root`, without data and experiments; the environment is not checked there."""
    shutil.copytree(ROOT / "tools", root / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / RECIPE, root / RECIPE, ignore=shutil.ignore_patterns("__pycache__", "data", "exp"))
    (root / "tools" / "check_environment.py").write_text("print('installed')\n")
