"""Check parsed values against the types of dataclass fields, and describe types and values in plain words.

A field may be int, float, bool, str, Optional, tuple or Literal; sections are dataclasses.
"""

from __future__ import annotations

import math
import re
import sys
import types
import typing
from typing import Any, Literal, Union

LARGEST_INTEGER = 2**63 - 1  # the largest int64, in torch and numpy
# YAML 1.1 reads "1e-3" (no dot) as text, but users mean the number.
_EXPONENT_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


def optional_inner(kind: Any) -> Any:
    """Return X for a type `Optional[X]`, and None for any other type."""
    if typing.get_origin(kind) not in (Union, types.UnionType):
        return None
    return next(argument for argument in typing.get_args(kind) if argument is not type(None))


def matches(kind: Any, value: Any) -> bool:
    """Check whether a scalar is valid for a field of type `kind`."""
    if typing.get_origin(kind) is Literal:
        return any(type(option) is type(value) and option == value for option in typing.get_args(kind))
    if kind is float:
        return _is_number(value)
    if kind is int:
        return type(value) is int and abs(value) <= LARGEST_INTEGER
    if kind is str:
        return type(value) is str and "\0" not in value
    if kind is not bool:
        raise TypeError(f"a configuration cannot hold {kind}")
    return type(value) is kind


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return bool(_EXPONENT_NUMBER.fullmatch(value)) and math.isfinite(float(value))
    return type(value) in (int, float) and abs(value) <= sys.float_info.max and math.isfinite(value)


def item_types(kind: Any, length: int) -> list[Any] | None:
    """Return the type of each item for a tuple of `length` items; None if `kind` has another length."""
    arguments = typing.get_args(kind)
    kinds = [arguments[0]] * length if arguments[-1] is Ellipsis else list(arguments)
    return kinds if len(kinds) == length else None


def describe_type(kind: Any) -> str:
    """Return a type in plain words, e.g. "a list (each item: a whole number)"."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if argument is type(None) else describe_type(argument) for argument in arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"a list (each item: {describe_type(arguments[0])})"
    if origin is tuple:
        return f"a list [{', '.join(describe_type(argument) for argument in arguments)}]"
    if origin is Literal:
        return "one of " + ", ".join(str(option) for option in arguments)
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(kind, "a section")


def describe_value(value: Any) -> str:
    """Return a value as messages show it."""
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    shown = "nothing" if value is None else repr(value)
    return shown if len(shown) <= 80 else f"{shown[:80]}..."


def mismatch(kind: Any, value: Any) -> str:
    """Return the message about a value that is invalid for type `kind`."""
    options = typing.get_args(kind) if typing.get_origin(kind) is Literal else ()
    wants_text = kind is str or (options and all(isinstance(option, str) for option in options))
    unquoted = wants_text and value is not None and not isinstance(value, (dict, list, str))
    remedy = "; put it in quotes" if unquoted else ""
    if kind is str and value is None:
        remedy = '; write "" for an empty text'
    if kind is str and isinstance(value, str):
        remedy = "; take the NUL character out"
    if kind in (int, float) and type(value) in (int, float):
        remedy = "; it must be finite" if kind is float else f"; at most {LARGEST_INTEGER}" * (type(value) is int)
    return f"expected {describe_type(kind)}, found {describe_value(value)}{remedy}"
