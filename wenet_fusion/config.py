"""YAML and key=value overrides -> nested frozen dataclasses, all problems at once; knows no field of any of them."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, Union

import yaml

T = TypeVar("T")

# YAML 1.1 reads "1e-3" (no dot) as text; people mean the number.
_EXPONENT_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")
_FIRST_WORD = re.compile(r"[A-Za-z_]\w*")
_INVALID = object()
_Place = Callable[[int], str]  # line -> how messages name it


class ConfigError(ValueError):
    """Everything that is wrong with a configuration; `problems` has one line each: place, dotted path, complaint."""

    def __init__(self, problems: Sequence[str]):
        super().__init__(tuple(problems))
        self.problems = tuple(problems)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return self.problems[0]
        return "\n  ".join([f"{len(self.problems)} problems in the configuration:", *self.problems])


class _Located(NamedTuple):
    """A parsed value and where it was written. A mapping is a dict[str, _Located], a sequence a list[_Located]."""

    value: Any
    where: str


def load_config(cls: type[T], path: str | Path, overrides: Iterable[str] = ()) -> T:
    """Read a YAML file into the dataclass `cls`; `overrides` are "dotted.key=YAML value" and win over the file.

    Field types: int, float, bool, str, Optional, tuple, Literal and dataclasses. A dataclass may define
    `problems(self) -> list[str]`; a message that begins with a field's name is reported at that field.
    Raises ConfigError with every problem found.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError([f"{path}: cannot read the configuration: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: the configuration is not UTF-8 text ({error})"]) from error
    return config_from_yaml(cls, text, str(path), overrides)


def config_from_yaml(cls: type[T], text: str, origin: str, overrides: Iterable[str] = ()) -> T:
    """Like `load_config` for YAML text that came from `origin` (a name for messages)."""
    problems: list[str] = []
    root = _parse_yaml(text, origin, lambda line: f"{origin}:{line}", problems)
    for override in overrides:
        _apply_override(root, override, problems)
    return _build_root(cls, root, problems)


def config_from_mapping(cls: type[T], mapping: Mapping[str, Any], origin: str) -> T:
    """Like `load_config` for plain nested values that came from `origin` (a name for messages)."""
    return _build_root(cls, _locate(dict(mapping), origin), [])


def to_yaml(config: Any) -> str:
    """YAML text of a configuration; `config_from_yaml(type(config), to_yaml(config), ...) == config`."""
    breaks = re.search(r"\\x85|\\u202[89]", repr(config))  # line breaks that PyYAML loses unless it escapes them
    return yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=not breaks, width=120)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def _locate(value: Any, where: str) -> _Located:
    if isinstance(value, Mapping):
        return _Located({key: _locate(item, where) for key, item in value.items()}, where)
    if isinstance(value, (list, tuple)):
        return _Located([_locate(item, where) for item in value], where)
    return _Located(value, where)


def _parse_yaml(text: str, origin: str, place: _Place, problems: list[str]) -> _Located:
    """Values of `text`, each with its place; after a syntax error nothing more can be said, so it raises."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return _Located({}, origin)
        return _from_node(loader, node, place, problems)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = place(mark.line + 1) if mark else origin
        raise ConfigError([*problems, f"{where}: not valid YAML: {getattr(error, 'problem', error)}"]) from error
    except RecursionError as error:
        raise ConfigError([f"{origin}: the YAML is nested too deeply or contains itself"]) from error
    finally:
        loader.dispose()


def _from_node(loader: yaml.SafeLoader, node: yaml.Node, place: _Place, problems: list[str]) -> _Located:
    where = place(node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return _Located([_from_node(loader, item, place, problems) for item in node.value], where)
    if isinstance(node, yaml.MappingNode):
        _report_duplicates(node, place, problems)
        loader.flatten_mapping(node)
        entries: dict[Any, _Located] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else str(key_node.value)
            value = _from_node(loader, value_node, place, problems)
            entries[key] = value._replace(where=place(key_node.start_mark.line + 1))
        return _Located(entries, where)
    try:
        return _Located(loader.construct_object(node, deep=True), where)
    except ValueError as error:  # e.g. 2020-13-45 looks like a date
        problems.append(f"{where}: cannot read {node.value!r} ({error}); put it in quotes if it is text")
        return _Located(_INVALID, where)


def _report_duplicates(node: yaml.MappingNode, place: _Place, problems: list[str]) -> None:
    first_line: dict[str, int] = {}
    for key_node, _ in node.value:
        line = key_node.start_mark.line + 1
        if isinstance(key_node.value, str) and key_node.value != "<<":
            if key_node.value in first_line:
                earlier = first_line[key_node.value]
                problems.append(f"{place(line)}: {key_node.value}: given twice, first in line {earlier}")
            first_line.setdefault(key_node.value, line)


def _apply_override(root: _Located, override: str, problems: list[str]) -> None:
    where = f"override {override!r}"
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        problems.append(f"{where}: write it as key=value or section.key=value")
        return
    try:
        value = _parse_yaml(text, where, lambda line: where, problems)
    except ConfigError as error:
        problems.extend(problem for problem in error.problems if problem not in problems)
        return
    if not text.strip():
        value = _Located(None, where)
    node = root
    for depth, key in enumerate(keys):
        if not isinstance(node.value, dict):
            problems.append(f"{where}: {'.'.join(keys[:depth]) or 'the file'} is a single value, not a section")
            return
        if depth == len(keys) - 1:
            node.value[key] = value
            return
        child = node.value.get(key)
        if child is None or child.value is None:
            child = node.value[key] = _Located({}, where)
        node = child


def _build_root(cls: type[T], root: _Located, problems: list[str]) -> T:
    config = _build(cls, root, "", None, problems)
    if problems:
        raise ConfigError(problems)
    return config


def _build(cls: Any, located: _Located, path: str, base: Any, problems: list[str]) -> Any:
    """One dataclass; fields that are not given come from `base` (the enclosing default) or from their own default."""
    given = {} if located.value is None else located.value
    if not isinstance(given, dict):
        problems.append(f"{located.where}: {path or 'the file'}: expected a section with keys, found {_show(given)}")
        return _INVALID
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        dotted = f"{path}.{field.name}" if path else field.name
        default = getattr(base, field.name) if base is not None else _default(field)
        if field.name in given:
            values[field.name] = _convert(hints[field.name], given[field.name], dotted, default, problems)
        elif dataclasses.is_dataclass(hints[field.name]):  # also a default may have problems()
            base_section = None if default is dataclasses.MISSING else default
            section = _Located({}, located.where)
            values[field.name] = _build(hints[field.name], section, dotted, base_section, problems)
        elif default is not dataclasses.MISSING:
            values[field.name] = default
        else:
            problems.append(f"{located.where}: {dotted}: required, but not given ({_describe(hints[field.name])})")
            values[field.name] = _INVALID
    for key in [key for key in given if key not in values]:
        problems.append(f"{given[key].where}: {path + '.' if path else ''}{key}: unknown key; {_hint(key, values)}")
    if any(value is _INVALID for value in values.values()):
        return _INVALID
    try:
        config = cls(**values)
        messages = config.problems() if hasattr(config, "problems") else []
    except ValueError as error:
        messages, config = [str(error)], _INVALID
    for message in messages:
        problems.append(_place_message(message, path, located, given, values))
    return config if not messages else _INVALID


def _place_message(message: str, path: str, located: _Located, given: dict, values: dict) -> str:
    """A message that begins with a field's name is said of that field, and of its line if it was given."""
    first = _FIRST_WORD.match(message)
    name = first.group() if first and first.group() in values else None
    where = given[name].where if name in given else located.where
    section = path + ("." if name else ": ") if path else ""
    return f"{where}: {section}{message}"


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _hint(key: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(key), known, n=1)
    return f"did you mean {close[0]}?" if close else f"known here: {', '.join(known) or 'none'}"


def _convert(kind: Any, located: _Located, path: str, default: Any, problems: list[str]) -> Any:
    value, where = located
    if value is _INVALID:
        return _INVALID
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        inner = next(argument for argument in arguments if argument is not type(None))
        return _convert(inner, located, path, default, problems)
    if dataclasses.is_dataclass(kind):
        return _build(kind, located, path, default if isinstance(default, kind) else None, problems)
    if origin is tuple and isinstance(value, list):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) == len(value):
            items = [_convert(k, v, f"{path}[{i}]", None, problems) for i, (k, v) in enumerate(zip(kinds, value))]
            return _INVALID if any(item is _INVALID for item in items) else tuple(items)
    elif origin is not tuple and _matches(kind, value):
        return float(value) if kind is float else value
    unquoted = _wants_text(kind) and value is not None and not isinstance(value, (dict, list, str))
    remedy = "; put it in quotes" if unquoted else ""
    problems.append(f"{where}: {path}: expected {_describe(kind)}, found {_show(value)}{remedy}")
    return _INVALID


def _matches(kind: Any, value: Any) -> bool:
    if typing.get_origin(kind) is Literal:
        return any(type(option) is type(value) and option == value for option in typing.get_args(kind))
    if kind is float:
        return _is_number(value)
    if kind not in (int, bool, str):
        raise TypeError(f"a configuration cannot hold {kind}")
    return type(value) is kind


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return bool(_EXPONENT_NUMBER.fullmatch(value))
    return type(value) in (int, float) and not math.isnan(value)


def _wants_text(kind: Any) -> bool:
    return kind is str or (
        typing.get_origin(kind) is Literal and all(isinstance(o, str) for o in typing.get_args(kind))
    )


def _describe(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if argument is type(None) else _describe(argument) for argument in arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"a list of {_describe(arguments[0])}"
    if origin is tuple:
        return f"a list [{', '.join(_describe(argument) for argument in arguments)}]"
    if origin is Literal:
        return "one of " + ", ".join(str(option) for option in arguments)
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(kind, "a section")


def _show(value: Any) -> str:
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "nothing" if value is None else f"{value!r}"
