"""Every public name has a docstring in plain words, and every example in a docstring runs."""

import ast
import doctest
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [
    *sorted((ROOT / "wenet_fusion").rglob("*.py")),
    *sorted((ROOT / "runtime").rglob("wenet_fusion_runtime/**/*.py")),
]

# Not allowed: openings that a reader must decode, and statements that a module knows nothing of another one, which
# tests/repository/test_imports.py enforces anyway.
RIDDLE = re.compile(r"^(Of|What|Those|As|So|Who|Whether|Where|When|How)\b")
IGNORANCE = re.compile(r"\b[Kk]nows? (no|not|neither|nothing|only|nobody)\b")
# Classes whose instances users only receive, or that only describe an interface.
PASSIVE_BASES = {"NamedTuple", "Protocol", "Exception", "ValueError", "RuntimeError", "Enum", "TypedDict", "Namespace"}


class Definition(NamedTuple):
    """A public module, class or function."""

    place: str  # file:line
    name: str
    node: ast.AST
    docstring: str


def definitions(path: Path) -> Iterator[Definition]:
    """Yield the public definitions of a source file, the module first."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    shown = path.relative_to(ROOT)
    if tree.body and path.name != "__init__.py":
        yield Definition(f"{shown}:1", path.stem, tree, ast.get_docstring(tree) or "")
    yield from _inside(tree, str(shown), "")


def _inside(parent: ast.AST, shown: str, prefix: str) -> Iterator[Definition]:
    for node in ast.iter_child_nodes(parent):
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) or node.name.startswith("_"):
            continue
        yield Definition(f"{shown}:{node.lineno}", prefix + node.name, node, ast.get_docstring(node) or "")
        if isinstance(node, ast.ClassDef):
            yield from _inside(node, shown, f"{node.name}.")


def overrides_forward(definition: Definition) -> bool:
    """Return whether the definition is a method whose class docstring says what it does."""
    return definition.name.rpartition(".")[2] == "problems" and "." in definition.name


def needs_example(definition: Definition) -> bool:
    """Return whether users construct the class themselves."""
    node = definition.node
    if not isinstance(node, ast.ClassDef):
        return False
    bases = {ast.unparse(base).rpartition(".")[2].partition("[")[0] for base in node.bases}
    return not bases & PASSIVE_BASES and not any(base.endswith(("Error", "Exception", "Enum")) for base in bases)


ALL = [definition for path in SOURCES for definition in definitions(path)]


def test_every_public_name_has_a_docstring() -> None:
    missing = [f"{item.place} {item.name}" for item in ALL if not item.docstring and not overrides_forward(item)]
    assert missing == [], f"{len(missing)} without a docstring"


def test_docstrings_say_what_a_thing_does() -> None:
    found = [
        f"{item.place} {item.name}: {item.docstring.splitlines()[0]}"
        for item in ALL
        if item.docstring and (RIDDLE.match(item.docstring) or IGNORANCE.search(item.docstring))
    ]
    assert found == [], f"{len(found)} that a reader must decode"


def test_classes_that_users_construct_have_an_example() -> None:
    missing = [f"{item.place} {item.name}" for item in ALL if needs_example(item) and ">>>" not in item.docstring]
    assert missing == [], f"{len(missing)} without an example"


MODULES = [
    ".".join(
        path.relative_to(ROOT / "runtime" if "runtime" in path.relative_to(ROOT).parts[:1] else ROOT)
        .with_suffix("")
        .parts
    )
    for path in SOURCES
    if ">>>" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module.removesuffix(".__init__")), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0 and result.attempted > 0


def test_every_option_has_a_help_text() -> None:
    """Without a help text, a reader of --help sees only the metavar."""
    parts = ("wenet_fusion", "runtime", "tools", "benchmarks", "examples")
    paths = [path for part in parts for path in sorted((ROOT / part).rglob("*.py"))]
    calls = [
        (path, node)
        for path in paths
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument"
    ]
    # `**name` may hold the help text.
    bare = [f"{path}:{node.lineno}" for path, node in calls if not {"help", None} & {key.arg for key in node.keywords}]
    assert len(calls) > 300 and not bare
