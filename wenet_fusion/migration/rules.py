"""Parts of the tables of rules: what becomes of a setting of WeNet."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from wenet_fusion.migration.wenet_file import WenetFile

Outcome = Literal["same", "differs", "none", "unknown"]


class MigrationOptions(NamedTuple):
    """Facts that WeNet's file does not hold.

    >>> MigrationOptions(utterances=120098, num_gpus=8).encoder
    'conformer'
    """

    encoder: Literal["conformer", "fusionformer"] = "conformer"  # kind of encoder to write
    utterances: int = 0  # of the training list, to turn epochs into updates; 0: unknown
    hours: float = 0.0  # of the training list, the same for batches by frames; 0: unknown
    num_gpus: int = 1  # ranks of the training


class Context(NamedTuple):
    """The file that a setting belongs to, and what the user added."""

    file: WenetFile
    options: MigrationOptions


class Finding(NamedTuple):
    """The outcome of a setting: our settings, and a remark on what differs or why there is none."""

    outcome: Outcome
    settings: tuple[tuple[str, Any], ...] = ()  # dotted keys of ours and their values
    remark: str = ""


Rule = Callable[[Any, Context], Finding]
Rules = Mapping[str, Rule]


def same(key: str, convert: Callable[[Any], Any] = lambda value: value) -> Rule:
    """Return a rule: the value stays as it is, or in our unit."""
    return lambda value, context: Finding("same", ((key, convert(value)),))


def differs(key: str, remark: str, convert: Callable[[Any], Any] = lambda value: value) -> Rule:
    """Return a rule: our setting has another effect, which the remark names."""
    return lambda value, context: Finding("differs", ((key, convert(value)),), remark)


def none(reason: str) -> Rule:
    """Return a rule: we have no such setting."""
    return lambda value, context: Finding("none", (), reason)


def always(expected: Any, otherwise: str) -> Rule:
    """Return a rule: we have no such setting; our behaviour is that of the value `expected`.

    Args:
        expected: a value, or a tuple of values.
        otherwise: remark on other values.
    """
    values = expected if isinstance(expected, tuple) else (expected,)

    def rule(value: Any, context: Context) -> Finding:
        return Finding("same", (), "always so") if value in values else Finding("differs", (), otherwise)

    return rule


def number(value: Any) -> float:
    """Return a number of the file, also one that YAML reads as text, such as 1e-3.

    Raises:
        ValueError: the value is no finite number.
    """
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"expected a number, found {value!r}")
    return found


def whole(value: Any) -> Any:
    """Return a whole number that is written as 25000.0 as an integer, other values as they are."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
