"""Parse YAML and overrides into values that record where they were written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import yaml

INVALID = object()
"""Stands for a value whose problem is already reported."""

MAX_VALUES = 100_000  # most values of a configuration, with its aliases expanded; a full configuration has about 160

_Place = Callable[[int], str]  # line number -> its name in messages


class ConfigError(ValueError):
    """All problems of a configuration; `problems` has a line for each: place, dotted path, message."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(tuple(problems))
        self.problems = tuple(problems)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return self.problems[0]
        return "\n  ".join([f"{len(self.problems)} problems in the configuration:", *self.problems])


class Located(NamedTuple):
    """A parsed value and where it was written; mappings and sequences hold `Located` values in turn."""

    value: Any
    where: str


def locate(value: Any, where: str) -> Located:
    """Wrap plain nested values in `Located`, all with the same place."""
    if isinstance(value, Mapping):
        return Located({key: locate(item, where) for key, item in value.items()}, where)
    if isinstance(value, (list, tuple)):
        return Located([locate(item, where) for item in value], where)
    return Located(value, where)


def parse_yaml(text: str, origin: str, place: _Place, problems: list[str]) -> Located:
    """Parse YAML text; an empty text is an empty section.

    Args:
        text: the YAML.
        origin: name of the text, for problems without a line.
        place: names a line in messages.
        problems: receives messages about single values and duplicate keys.

    Raises:
        ConfigError: the text is not YAML (the error lists `problems`, too), has too many values or contains itself.
    """
    loader: yaml.SafeLoader | None = None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is not None and _expanded_size(node, {}) > MAX_VALUES:
            raise ConfigError([f"{origin}: holds more than {MAX_VALUES} values once its aliases (*name) are expanded"])
        return Located({}, origin) if node is None else _from_node(loader, node, place, problems)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = place(mark.line + 1) if mark else origin
        reason = " ".join(str(getattr(error, "problem", error)).split())
        raise ConfigError([*problems, f"{where}: not valid YAML: {reason}"]) from error
    except RecursionError as error:
        raise ConfigError([f"{origin}: the YAML is nested too deeply or contains itself"]) from error
    finally:
        if loader is not None:
            loader.dispose()


def _expanded_size(node: yaml.Node, known: dict[int, int]) -> int:
    """Return the number of values in a node, the node included, aliases expanded; RecursionError if it contains itself.

    Args:
        node: a node of the parsed text.
        known: sizes of the nodes visited so far, by identity.
    """
    if id(node) not in known:
        if isinstance(node, yaml.SequenceNode):
            children = node.value
        else:
            children = [value for _, value in node.value] if isinstance(node, yaml.MappingNode) else []
        known[id(node)] = 1 + sum(_expanded_size(child, known) for child in children)
    return known[id(node)]


def _from_node(loader: yaml.SafeLoader, node: yaml.Node, place: _Place, problems: list[str]) -> Located:
    where = place(node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return Located([_from_node(loader, item, place, problems) for item in node.value], where)
    if isinstance(node, yaml.MappingNode):
        _report_duplicates(node, place, problems)
        loader.flatten_mapping(node)
        entries: dict[Any, Located] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else str(key_node.value)
            value = _from_node(loader, value_node, place, problems)
            entries[key] = value._replace(where=place(key_node.start_mark.line + 1))
        return Located(entries, where)
    try:
        return Located(loader.construct_object(node, deep=True), where)
    except ValueError as error:  # e.g. 2020-13-45, which YAML takes for a date
        problems.append(f"{where}: cannot read {node.value!r} ({error}); put it in quotes if it is text")
        return Located(INVALID, where)


def _report_duplicates(node: yaml.MappingNode, place: _Place, problems: list[str]) -> None:
    first_line: dict[str, int] = {}
    for key_node, _ in node.value:
        line = key_node.start_mark.line + 1
        if isinstance(key_node.value, str) and key_node.value != "<<":
            if key_node.value in first_line:
                earlier = first_line[key_node.value]
                problems.append(f"{place(line)}: {key_node.value}: given twice, first in line {earlier}")
            first_line.setdefault(key_node.value, line)


def apply_override(root: Located, override: str, problems: list[str]) -> None:
    """Set the value of "dotted.key=YAML value" in `root`; append errors to `problems`."""
    where = f"override {override!r}"
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        problems.append(f"{where}: write it as key=value or section.key=value")
        return
    try:
        value = parse_yaml(text, where, lambda line: where, problems)
    except ConfigError as error:
        problems.extend(problem for problem in error.problems if problem not in problems)
        return
    if not text.strip():
        value = Located(None, where)
    section = root
    for depth, key in enumerate(keys):
        if not isinstance(section.value, dict):
            problems.append(f"{where}: {'.'.join(keys[:depth]) or 'the file'} is not a section with keys")
            return
        if depth == len(keys) - 1:
            section.value[key] = value
            return
        child = section.value.get(key)
        if child is None or child.value is None:
            child = section.value[key] = Located({}, where)
        section = child
