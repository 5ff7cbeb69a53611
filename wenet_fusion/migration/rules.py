"""Building blocks of the rules that translate WeNet's settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from wenet_fusion.migration.wenet_file import WenetFile

Outcome = Literal["same", "differs", "none", "unknown"]


class MigrationOptions(NamedTuple):
    """The kind of encoder to write, and facts that WeNet's file does not contain.

    >>> MigrationOptions(utterances=120098, num_gpus=8).encoder
    'conformer'
    """

    encoder: Literal["conformer", "fusionformer"] = "conformer"  # kind of encoder to write
    utterances: int = 0  # number of training utterances, to turn epochs into updates; 0: unknown
    hours: float = 0.0  # hours of training audio, to turn epochs into updates if batch_type is dynamic; 0: unknown
    num_gpus: int = 1  # number of ranks of the training


class Context(NamedTuple):
    """The file that a setting belongs to, and the user's options."""

    file: WenetFile
    options: MigrationOptions


class Finding(NamedTuple):
    """The outcome of a setting: our settings, and a remark on a difference or on a missing counterpart."""

    outcome: Outcome
    settings: tuple[tuple[str, Any], ...] = ()  # our settings: dotted keys and values
    remark: str = ""


Rule = Callable[[Any, Context], Finding]
Rules = Mapping[str, Rule]


def same(key: str, convert: Callable[[Any], Any] = lambda value: value) -> Rule:
    """Return a rule for a setting that we have, too; `convert` adapts its value."""
    return lambda value, context: Finding("same", ((key, convert(value)),))


def none(reason: str) -> Rule:
    """Return a rule for a setting without a counterpart here."""
    return lambda value, context: Finding("none", (), reason)


def always(expected: Any, otherwise: str) -> Rule:
    """Return a rule for a setting without a counterpart, because we always behave as with the value `expected`.

    Args:
        expected: a value, or a tuple of values.
        otherwise: remark for other values.
    """
    values = expected if isinstance(expected, tuple) else (expected,)

    def rule(value: Any, context: Context) -> Finding:
        return Finding("same", (), "always so here") if value in values else Finding("differs", (), otherwise)

    return rule


def number(value: Any) -> float:
    """Return a value of the file as a number, even if YAML reads it as text, such as 1e-3.

    Raises:
        ValueError: the value is not a finite number.
    """
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"expected a number, found {value!r}")
    return found


def whole(value: Any) -> Any:
    """Return a whole number written as 25000.0 as an integer; return other values unchanged."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
