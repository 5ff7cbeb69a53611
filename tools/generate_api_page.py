#!/usr/bin/env python3
"""Write docs/api.md from the docstrings of everything that the two packages export.

A test fails if the page differs from the docstrings.

Example: python tools/generate_api_page.py docs/api.md
"""

import argparse
import importlib
import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any, ForwardRef

from field_comments import field_comments
from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.files import write_text

HEADER = """# Python API

Everything that the two packages export. Names that are not listed here may change between versions.

This page is generated: `python tools/generate_api_page.py docs/api.md`.
"""
LONGEST_LINE, LONGEST_DEFAULT = 110, 40  # maximum length of a signature in one line, and of a default value
PACKAGES = {
    "wenet_fusion_runtime": "Run an exported model. Needs numpy, soundfile and soxr, and torch or onnxruntime.",
    "wenet_fusion": "Train, evaluate and export. Names are imported when they are first used.",
}


def signature(value: Any) -> str:
    """Return the call signature of a function or class; an empty string if it has none.

    Long signatures, and signatures of classes whose fields have comments, have a line per parameter with its comment.
    """
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return ""
    returned = (
        "" if isinstance(value, type) or found.return_annotation is found.empty else annotation(found.return_annotation)
    )
    end = f") -> {returned}" if returned else ")"
    parameters = [parameter_text(parameter) for parameter in found.parameters.values()]
    comments = (
        field_comments(value) if isinstance(value, type) and (is_dataclass(value) or hasattr(value, "_fields")) else {}
    )
    line = f"({', '.join(parameters)}{end}"
    if len(line) <= LONGEST_LINE and not any(comments.get(name) for name in found.parameters):
        return line
    rows = [
        f"    {text},{f'  # {comments[name]}' if comments.get(name) else ''}\n"
        for name, text in zip(found.parameters, parameters)
    ]
    return f"(\n{''.join(rows)}{end}"


def one_line(call: str) -> str:
    """Return the signature of a method in one line, without `self`."""
    call = re.sub(r"\(\s+", "(", re.sub(r",\s+\)", ")", re.sub(r",\s+(?=\w)", ", ", call)))
    return call.replace("(self, ", "(").replace("(self)", "()")


def annotation(value: Any) -> str:
    """Return a type as text, without the names of modules."""
    if isinstance(value, ForwardRef):
        value = value.__forward_arg__
    text = value if isinstance(value, str) else inspect.formatannotation(value)
    return re.sub(r"ForwardRef\('(.*?)'\)", r"\1", re.sub(r"\b(?:\w+\.)+(?=\w)", "", text)).replace("'", '"')


def parameter_text(parameter: inspect.Parameter) -> str:
    """Return a parameter with its type and default."""
    text = str(parameter.replace(annotation=parameter.empty, default=parameter.empty))
    if parameter.annotation is not parameter.empty:
        text += f": {annotation(parameter.annotation)}"
    if parameter.default is not parameter.empty:
        default = repr(parameter.default).replace("'", '"')
        text += " = ..." if default == "<factory>" or len(default) > LONGEST_DEFAULT else f" = {default}"
    return text


def constant(module: ModuleType, name: str, value: Any) -> Iterator[str]:
    """Yield the value of a constant and the comment beside its assignment."""
    text = f"{name} = {value!r}".replace("'", '"')
    if len(text) > LONGEST_LINE:
        text = re.sub(r"\((?=\w+=)", "(\n    ", text).replace(", ", ",\n    ").removesuffix(")") + ",\n)"
    yield f"```python\n{text}\n```\n"
    for home, imported in sorted(sys.modules.items()):
        is_candidate = home.startswith(f"{module.__name__}.") and vars(imported).get(name) is value
        if is_candidate and (comment := field_comments(imported).get(name)):
            yield comment[0].upper() + comment[1:].rstrip(".") + ".\n"
            return


def docstring(value: Any) -> str:
    """Return a docstring as Markdown: arguments and errors as lists, examples as code blocks."""
    lines, inside, listed = [], False, False
    for line in (inspect.getdoc(value) or "").splitlines():
        if line in ("Args:", "Attributes:", "Raises:", "Returns:"):
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
        call = "" if isinstance(member, property) else one_line(signature(function))
        first = " ".join(inspect.cleandoc(function.__doc__).split("\n\n")[0].split())
        yield f"- `{name}{call}`: {first}"


def section(module: ModuleType, name: str, value: Any) -> Iterator[str]:
    """Yield the lines about one exported name."""
    plain = isinstance(value, type) and (
        issubclass(value, (BaseException, Enum)) or getattr(value, "_is_protocol", False)
    )
    yield f"### {name}\n"
    if not callable(value):
        yield from constant(module, name, value)
        return
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
                parts.extend(section(module, exported, getattr(module, exported)))
    return "\n".join(parts).rstrip() + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page; see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="Markdown file to write")
    write_text(parser.parse_args(arguments).output, page())
    return 0


if __name__ == "__main__":
    run_main(main)
