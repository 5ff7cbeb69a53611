#!/usr/bin/env python3
"""Write docs/configuration.md: every configuration key with its type, default and meaning.

The meaning of a key is the comment on the line of its dataclass field, together with comment lines right above it.
"""

import argparse
import dataclasses
import inspect
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from field_comments import field_comments
from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.files import write_text

from wenet_fusion.model.encoder_config import EncoderConfig
from wenet_fusion.model.layers.activation import ACTIVATIONS
from wenet_fusion.model.layers.layer_types import LAYER_TYPES
from wenet_fusion.recipe import RecipeConfig

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
TABLES = {(EncoderConfig, "activation"): ACTIVATIONS, (EncoderConfig, "layer"): LAYER_TYPES}  # allowed values of keys
INTRODUCTION = """# Configuration

<!-- Written by tools/generate_configuration_page.py from the dataclasses. Change their comments, not this page. -->

A training run reads one YAML file. Give only the keys that differ from their defaults; `tokenizer.units` is required.
Overrides on the command line win over the file:

```
wenet-fusion train --config conf/train.yaml ... training.max_steps=100 model.encoder.dropout=0.2
```

All mistakes are reported at once, each with its line; for an unknown key there is a suggestion:

```
error: 2 problems in the configuration:
  conf/train.yaml:12: model.encoder.num_layers: unknown key; did you mean layers?
  conf/train.yaml:30: training.max_steps: expected a whole number, found 'many'
```

Relative paths start at the working directory. `MODEL_DIR/train.yaml` holds the whole configuration of a run, defaults
included. [training.md](training.md) explains how to train, [data.md](data.md) how to prepare data.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=PAGE, help="page to write")
    args = parser.parse_args(arguments)
    write_text(args.output, configuration_page())
    print(f"wrote {args.output}")
    return 0


def configuration_page() -> str:
    """Return the text of the page."""
    return "\n".join([INTRODUCTION, *sections(RecipeConfig, "")])


def sections(config: type, path: str) -> Iterator[str]:
    """Yield a heading and a table for a configuration class, then for each of its sections."""
    types, comments = typing.get_type_hints(config), field_comments(config)
    fields = [field for field in dataclasses.fields(config) if not dataclasses.is_dataclass(types[field.name])]
    yield f"## {f'`{path}`' if path else 'Top level'}\n"
    yield f"{first_line(config)}\n"
    if fields:
        yield "| key | type | default | meaning |\n|---|---|---|---|"
        for field in fields:
            if not comments[field.name]:
                raise ValueError(f"{config.__qualname__}.{field.name} has no comment: explain the key on its line")
            table = TABLES.get((config, field.name))
            kind = type_name(types[field.name]) if table is None else listed(table)
            cells = (f"`{field.name}`", kind, default_text(field), comments[field.name])
            yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
        yield ""
    for field in dataclasses.fields(config):
        kind = types[field.name]
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            yield from sections(kind, f"{path}.{field.name}" if path else field.name)


def first_line(config: type) -> str:
    """Return the first line of a class's docstring."""
    return (inspect.getdoc(config) or "").partition("\n")[0]


def type_name(kind: Any) -> str:
    """Return a field's type in terms of YAML.

    >>> type_name(tuple[float, float]), type_name(int | None)
    ('[number, number]', 'whole number or null')
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return listed(arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        name = type_name(arguments[0])
        return f"list of {name}" if name.endswith("`") else f"list of {name}s"
    if origin is tuple:
        return f"[{', '.join(map(type_name, arguments))}]"
    if arguments:
        return " or ".join("null" if argument is type(None) else type_name(argument) for argument in arguments)
    return {int: "whole number", float: "number", bool: "true or false", str: "text"}[kind]


def listed(options: Iterable[str]) -> str:
    """Return options in one line of Markdown."""
    return ", ".join(f"`{option}`" for option in options)


def default_text(field: dataclasses.Field) -> str:
    """Return a field's default as YAML."""
    if field.default is dataclasses.MISSING:
        return "required"
    default = list(field.default) if isinstance(field.default, tuple) else field.default
    text = yaml.safe_dump(default, default_flow_style=True).removesuffix("\n").removesuffix("\n...")
    return f"`{text}`" if default != "" else "empty"


if __name__ == "__main__":
    run_main(main)
