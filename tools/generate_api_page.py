#!/usr/bin/env python3
"""Write docs/api.md from the docstrings of the names that both packages export.

A test fails while the page differs from the docstrings.

Example: python tools/generate_api_page.py docs/api.md
"""

import argparse
import importlib
import inspect
import re
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.files import write_text

HEADER = """# Python API

Everything that the two packages export. Names that are not listed here may change between versions.

This page is generated: `python tools/generate_api_page.py docs/api.md`.
"""
PACKAGES = {
    "wenet_fusion_runtime": "Run an exported model. Needs numpy, soundfile and soxr, and torch or onnxruntime.",
    "wenet_fusion": "Train, evaluate and export. Names are imported when they are first used.",
}


def signature(value: Any) -> str:
    """Return the call signature of a function or class; empty if it has none to show."""
    try:
        text = str(inspect.signature(value))
    except (TypeError, ValueError):
        return ""
    return text.replace("'", "") if len(text) < 400 else "(...)"


def docstring(value: Any) -> str:
    """Return a docstring as Markdown: arguments and errors as lists, examples as code blocks."""
    lines, inside, listed = [], False, False
    for line in (inspect.getdoc(value) or "").splitlines():
        if line in ("Args:", "Raises:", "Returns:"):
            lines += ["", f"**{line.removesuffix(':')}**", ""]
            listed = True
            continue
        if listed and (match := re.match(r"    ([\w*, .]+): (.*)", line)):
            line = f"- `{match[1]}`: {match[2]}"
        elif listed and line.startswith("    "):
            line = "  " + line.lstrip() if lines[-1].startswith(("- ", "  ")) else line.lstrip()
        listed = listed and bool(line)
        if line.lstrip().startswith(">>>") and not inside:
            lines += ["", "```python"]
            inside = True
        if inside and not line.strip():
            lines.append("```")
            inside = False
        lines.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join([*lines, "```"] if inside else lines))


def methods(kind: type) -> Iterator[str]:
    """Yield one line for each public method and property that a class defines itself and documents."""
    for name, member in vars(kind).items():
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if name.startswith("_") or not inspect.isfunction(function) or not function.__doc__:
            continue
        call = (
            "" if isinstance(member, property) else signature(function).replace("(self, ", "(").replace("(self)", "()")
        )
        first = " ".join(inspect.cleandoc(function.__doc__).split("\n\n")[0].split())
        yield f"- `{name}{call}`: {first}"


def section(name: str, value: Any) -> Iterator[str]:
    """Yield the lines about one exported name."""
    plain = isinstance(value, type) and (issubclass(value, (BaseException, Enum)))
    yield f"### {name}\n"
    if callable(value) and not plain:
        yield f"```python\n{name}{signature(value)}\n```\n"
    yield docstring(value) + "\n"
    if isinstance(value, type) and (listed := list(methods(value))):
        yield "\n".join(listed) + "\n"


def page() -> str:
    """Return the text of the page."""
    parts = [HEADER]
    for name, purpose in PACKAGES.items():
        module: ModuleType = importlib.import_module(name)
        parts.append(f"## {name}\n\n{purpose}\n")
        for exported in sorted(module.__all__, key=str.lower):
            if not exported.startswith("__"):
                parts.extend(section(exported, getattr(module, exported)))
    return "\n".join(parts).rstrip() + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page; see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="Markdown file to write")
    write_text(parser.parse_args(arguments).output, page())
    return 0


if __name__ == "__main__":
    run_main(main)
