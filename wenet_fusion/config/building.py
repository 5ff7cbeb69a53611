"""Build nested frozen dataclasses from located values, and write them back as YAML."""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from wenet_fusion.config.field_types import describe_type, describe_value, item_types, matches, mismatch, optional_inner
from wenet_fusion.config.located_yaml import INVALID, ConfigError, Located, apply_override, locate, parse_yaml

T = TypeVar("T")

_FIRST_WORD = re.compile(r"[A-Za-z_]\w*")


def load_config(cls: type[T], path: str | Path, overrides: Iterable[str] = ()) -> T:
    """Read a YAML file into the dataclass `cls`.

    A field that the file leaves out keeps the default of the enclosing section. A dataclass may define
    `problems(self) -> list[str]`; a message that begins with a field's name is reported at that field.

    Args:
        cls: a frozen dataclass; see `field_types` for the types its fields may have.
        path: the YAML file.
        overrides: "dotted.key=YAML value" each; they replace values of the file.

    Raises:
        ConfigError: with every problem found.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError([f"{path}: cannot read the configuration: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: the configuration is not UTF-8 text ({error})"]) from error
    return config_from_yaml(cls, text, str(path), overrides)


def config_from_yaml(cls: type[T], text: str, origin: str, overrides: Iterable[str] = ()) -> T:
    """Build `cls` from YAML text like `load_config`; `origin` names the text in messages."""
    problems: list[str] = []
    root = parse_yaml(text, origin, lambda line: f"{origin}:{line}", problems)
    for override in overrides:
        apply_override(root, override, problems)
    return _build_root(cls, root, problems)


def config_from_located(cls: type[T], root: Located) -> T:
    """Build `cls` from `Located` values like `load_config`."""
    return _build_root(cls, root, [])


def config_from_mapping(cls: type[T], mapping: Mapping[str, Any], origin: str) -> T:
    """Build `cls` from plain nested values like `load_config`; `origin` names them in messages."""
    return _build_root(cls, locate(dict(mapping), origin), [])


def to_yaml(config: Any) -> str:
    """Return a configuration as YAML text, from which `config_from_yaml` builds an equal configuration."""
    breaks = re.search(r"\\x85|\\u202[89]", repr(config))  # line breaks that PyYAML loses unless it escapes them
    return yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=not breaks, width=120)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def _build_root(cls: type[T], root: Located, problems: list[str]) -> T:
    config = _build(cls, root, "", None, problems)
    if problems:
        raise ConfigError(problems)
    return config


def _build(cls: Any, located: Located, path: str, base: Any, problems: list[str]) -> Any:
    """Build one dataclass, or return INVALID; missing fields come from `base`, the enclosing section's default."""
    given = {} if located.value is None else located.value
    if not isinstance(given, dict):
        found = describe_value(given)
        problems.append(f"{located.where}: {path or 'the file'}: expected a section with keys, found {found}")
        return INVALID
    types = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        kind, dotted = types[field.name], _join(path, field.name)
        default = getattr(base, field.name) if base is not None else _default(field)
        if field.name in given:
            values[field.name] = _convert(kind, given[field.name], dotted, default, problems)
        elif dataclasses.is_dataclass(kind):  # the problems of a default are reported, too
            section_base = None if default is dataclasses.MISSING else default
            values[field.name] = _build(kind, Located({}, located.where), dotted, section_base, problems)
        elif default is not dataclasses.MISSING:
            values[field.name] = default
        else:
            problems.append(f"{located.where}: {dotted}: required, but not given ({describe_type(kind)})")
            values[field.name] = INVALID
    for key in [key for key in given if key not in values]:
        renamed = getattr(cls, "RENAMED_KEYS", {}).get(key)
        what = f"this key was renamed; write {renamed}" if renamed else f"unknown key; {_suggestion(key, values)}"
        problems.append(f"{given[key].where}: {_join(path, key)}: {what}")
    if any(value is INVALID for value in values.values()):
        return INVALID
    try:
        config = cls(**values)
        messages = config.problems() if hasattr(config, "problems") else []
    except ValueError as error:
        config, messages = INVALID, [str(error)]
    problems += [_place_message(message, path, located, given, values) for message in messages]
    return INVALID if messages else config


def _convert(kind: Any, located: Located, path: str, default: Any, problems: list[str]) -> Any:
    """Convert one value to its field's type, or report it and return INVALID."""
    value, where = located
    if value is INVALID:
        return INVALID
    inner = optional_inner(kind)
    if inner is not None:
        return None if value is None else _convert(inner, located, path, default, problems)
    if dataclasses.is_dataclass(kind):
        return _build(kind, located, path, default if type(default) is kind else None, problems)
    if typing.get_origin(kind) is tuple:
        kinds = item_types(kind, len(value)) if isinstance(value, list) else None
        if kinds is not None:
            items = [_convert(k, v, f"{path}[{i}]", None, problems) for i, (k, v) in enumerate(zip(kinds, value))]
            return INVALID if any(item is INVALID for item in items) else tuple(items)
    elif matches(kind, value):
        return float(value) if kind is float else value
    problems.append(f"{where}: {path}: {mismatch(kind, value)}")
    return INVALID


def _place_message(message: str, path: str, located: Located, given: dict, values: dict) -> str:
    """Prefix a message with its place: the line of the field that begins the message, or else of the section."""
    first = _FIRST_WORD.match(message)
    name = first.group() if first and first.group() in values else None
    where = given[name].where if name in given else located.where
    section = path + ("." if name else ": ") if path else ""
    return f"{where}: {section}{message}"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _suggestion(key: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(key), known, n=1)
    return f"did you mean {close[0]}?" if close else f"known here: {', '.join(known) or 'none'}"
