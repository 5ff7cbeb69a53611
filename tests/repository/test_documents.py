"""Documents: links, anchors, messages, configuration keys and commands exist; examples import the public interface."""

import argparse
import ast
import dataclasses
import importlib
import re
import shlex
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.recipes.scripts import load_script
from wenet_fusion_runtime.cli import __main__ as runtime_cli

from wenet_fusion.cli import __main__ as toolkit_cli
from wenet_fusion.recipe import RecipeConfig

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "runtime/*.md", "benchmarks/results/*.md", "examples/*/s0/*.md")
    for path in ROOT.glob(pattern)
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
SOURCES = [*(ROOT / "wenet_fusion").rglob("*.py"), *(ROOT / "runtime" / "wenet_fusion_runtime").rglob("*.py")]


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    headings = re.findall(r"^#{1,6} (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("```") % 2 == 0, "a code block is not closed"
    broken = []
    for link in LINK.findall(FENCE.sub("", text)):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        page = (path.parent / target).resolve() if target else path
        if not page.exists() or (anchor and page.suffix == ".md" and anchor not in anchors(page)):
            broken.append(link)
    assert broken == []


def test_every_page_is_reached_from_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert [
        page.name for page in (ROOT / "docs").glob("*.md") if page.name != "index.md" and f"({page.name})" not in index
    ] == []


def source_messages() -> str:
    """Return every string constant of the sources; constants of one expression are joined."""
    found = []
    for path in [*SOURCES, *(ROOT / "tools").rglob("*.py"), *(ROOT / "runtime" / "native").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                values = [value.value if isinstance(value, ast.Constant) else "\0" for value in node.values]
                found.append("".join(map(str, values)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    shell = [path.read_text(encoding="utf-8") for path in (ROOT / "tools").glob("*.sh")]
    return "\n".join([*found, *shell])


def test_quoted_error_messages_exist() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted, messages = re.findall(r"^\*\*`(.+?)`", text, re.MULTILINE), source_messages()
    assert len(quoted) > 20
    assert [message for message in quoted if message not in messages] == []


def described_messages(text: str) -> Iterator[str]:
    """Yield the messages in the first column of a page's tables of messages."""
    inside = False
    for line in text.splitlines():
        inside = line.startswith("|") and (inside or line.startswith("| message |"))
        if inside:
            yield from re.findall(r"`([^`]+)`", re.split(r"(?<!\\)\|", line)[1])


def test_messages_in_tables_exist() -> None:
    """A page shows values in place of expressions, so only a third of the runs of three words must be in a source."""
    messages, found, strange = source_messages(), 0, []
    for path in DOCUMENTS:
        for message in described_messages(path.read_text(encoding="utf-8")):
            fragments = re.split(r"\.\.\.|'[^']*'|\S*\d\S*|\b[A-Z]+\b", message)
            words = max((fragment.split() for fragment in fragments), key=len)
            runs = [" ".join(words[start : start + 3]).strip(".:;,") for start in range(max(1, len(words) - 2))]
            found += 1
            if 3 * sum(run in messages for run in runs) < len(runs):
                strange.append(f"{path.name}: {message}")
    assert found > 60
    assert strange == [], strange


def configuration_keys(config: type, prefix: str = "") -> Iterator[str]:
    """Yield the path of every key of a configuration class, sections included."""
    types = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        yield prefix + field.name
        for kind in (types[field.name], *typing.get_args(types[field.name])):
            if dataclasses.is_dataclass(kind) and isinstance(kind, type):
                yield from configuration_keys(kind, f"{prefix}{field.name}.")


def test_configuration_keys_exist() -> None:
    keys = set(configuration_keys(RecipeConfig))
    sections = "|".join({key.rpartition(".")[0].rpartition(".")[2] for key in keys} - {""})
    mention = re.compile(rf"`((?:\w+\.)*(?:{sections})\.\w+)(?:[=:] ?[^`]*)?`")
    pages = [path for path in DOCUMENTS if path.name != "CHANGELOG.md"]
    found = [(path.name, key) for path in pages for key in mention.findall(path.read_text(encoding="utf-8"))]
    assert len(found) > 80
    files = (".md", ".py", ".list", ".zip", ".onnx", ".lock", ".pt", ".yaml")
    assert [
        (page, key)
        for page, key in found
        if not key.endswith(files) and not any(f".{known}".endswith(f".{key}") for known in keys)
    ] == []


def test_examples_in_guides_use_the_public_interface() -> None:
    """CONTRIBUTING.md is for those who change the code; its examples may import from any module."""
    found, private = 0, []
    for path in DOCUMENTS:
        if path.name in ("CONTRIBUTING.md", "CHANGELOG.md"):
            continue
        for block in re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
            for package, names in re.findall(r"^\s*from (wenet_fusion\S*) import (.+)$", block, re.MULTILINE):
                public = importlib.import_module(package).__all__ if "." not in package else []
                private += [
                    f"{path.name}: {package}.{name}" for name in re.findall(r"\w+", names) if name not in public
                ]
                found += 1
    assert found >= 8
    assert private == []


def commands() -> Iterator[tuple[str, str]]:
    """Yield (document, command line) for each use of our commands in a code block."""
    for path in DOCUMENTS:
        if path.name == "CHANGELOG.md":
            continue
        for block in FENCE.findall(path.read_text(encoding="utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                for part in re.split(r"[|;]", line.removeprefix("$ ")):
                    if re.match(r"\s*wenet-fusion(-runtime)? [a-z]", part):
                        yield str(path.relative_to(ROOT)), part.strip()


def subparser(parser: argparse.ArgumentParser, verb: str) -> argparse.ArgumentParser:
    """Return the parser of a verb; raises KeyError if there is none."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices[verb]
    raise KeyError(verb)


def test_commands_have_the_options_that_documents_show() -> None:
    found, unknown = list(commands()), []
    for document, line in found:
        program, verb, *words = shlex.split(line, comments=True)
        parser = toolkit_cli.build_parser() if program == "wenet-fusion" else runtime_cli.build_parser()
        try:
            parser = subparser(parser, verb)
        except KeyError:
            unknown.append(f"{document}: {line}")
            continue
        options = {option for action in parser._actions for option in action.option_strings}
        unknown += [
            f"{document}: {word} in {line}"
            for word in (word.partition("=")[0] for word in words)
            if re.match(r"--[a-z]", word) and word not in options
        ]
    assert len(found) > 30
    assert unknown == []


def test_the_api_page_is_what_the_docstrings_say() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert page == load_script("generate_api_page").page(), "run: python tools/generate_api_page.py docs/api.md"
    assert re.findall(r"ForwardRef|<factory>|Built-in|\w+\(\.\.\.\)$", page, re.MULTILINE) == []
