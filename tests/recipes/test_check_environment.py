"""Requirements of the environment in which recipes and tests run."""

import ast
import re

import pytest
from support.recipes.recipe_clone import ROOT


def test_an_environment_made_here_suits_the_next_clone() -> None:
    """The check of an environment asks for nothing that env.sh does not install."""
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    toolkit, runtime = (
        tomllib.loads((ROOT / part / "pyproject.toml").read_text())["project"] for part in (".", "runtime")
    )
    extras = [toolkit["optional-dependencies"][name] for name in ("test", "recipes")]
    installed = [toolkit["dependencies"], runtime["dependencies"], *extras]
    others = [*toolkit["optional-dependencies"].values(), *runtime["optional-dependencies"].values()]
    found, asked = ({re.split(r"[\[<>=]", line)[0] for lines in part for line in lines} for part in (installed, others))
    pinned = set(re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    script = (ROOT / "tools" / "check_environment.py").read_text()
    (optional,) = re.findall(r"^OPTIONAL = (\(.*?\))", script, re.MULTILINE)
    assert (asked - found) & pinned == set(ast.literal_eval(optional))
