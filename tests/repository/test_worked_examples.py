"""The worked examples of CONTRIBUTING.md, applied unchanged to a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

ROOT = Path(__file__).parents[2]


class Block(NamedTuple):
    """A fenced block: its language and its text."""

    language: str
    text: str


def section(title: str) -> list[Block]:
    """The blocks of a section."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    body = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert body is not None, f"CONTRIBUTING.md has no section {title}"
    return [Block(*found) for found in re.findall(r"^```(\w+)\n(.*?)^```$", body[1], re.M | re.S)]


def apply(block: Block, tree: Path) -> None:
    """Write a new file, or change a file at the context lines of the example."""
    head, _, body = block.text.partition("\n")
    if block.language == "python":
        (tree / head.removeprefix("# ")).write_text(body, encoding="utf-8")
        return
    path, lines = tree / head.removeprefix("--- "), body.splitlines()
    old = "\n".join(line[1:] for line in lines if not line.startswith("+"))
    new = "\n".join(line[1:] for line in lines if not line.startswith("-"))
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{path.name} does not hold the lines of the example once:\n{old}"
    path.write_text(text.replace(old, new), encoding="utf-8")


def run_example(tree: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    """The checks of `worked_example.py` with the package in `tree`."""
    script = ROOT / "tests" / "support" / "model" / "worked_example.py"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tree, ROOT / "runtime", ROOT / "tests")))}
    command = [sys.executable, str(script), *settings]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tree)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the toolkit."""
    shutil.copytree(ROOT / "wenet_fusion", tmp_path / "wenet_fusion", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.mark.parametrize(
    "title, settings",
    [("Swap an activation", ("activation=gelu", "activation=mish")), ("Add an encoder layer type", ("layer=fsmn",))],
    ids=["activation", "layer type"],
)
def test_a_worked_example_works(title: str, settings: tuple[str, ...], tree: Path) -> None:
    blocks = section(title)
    (setting,) = [
        f"{key}={value}"
        for block in blocks
        if block.language == "yaml"
        for key, value in yaml.safe_load(block.text)["model"]["encoder"].items()
    ]
    assert setting in settings
    assert (
        "is unknown" in run_example(tree, settings[-1]).stderr or "KeyError" in run_example(tree, settings[-1]).stderr
    )
    for block in blocks:
        if block.language in ("python", "diff"):
            apply(block, tree)
    for each in settings:
        done = run_example(tree, each)
        assert done.returncode == 0, done.stderr[-3000:]
        assert "all right" in done.stdout
