"""The parts of a grammar's rules, and checks of the rules as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple, Union

from wenet_fusion_runtime.console import SHOWN, visible

_SHOWN_RULES = 5


class Words(NamedTuple):
    """Words that are spoken one after the other."""

    words: tuple[str, ...]
    line: int  # line of the file, for error messages


class Reference(NamedTuple):
    """The name of another rule, which is spoken in this place."""

    rule: str
    line: int


class Series(NamedTuple):
    """Parts that are spoken one after the other; without parts, nothing is spoken."""

    parts: tuple[Expression, ...]


class Choice(NamedTuple):
    """Exactly one of several parts is spoken; without parts, the rule cannot be spoken."""

    options: tuple[tuple[float, Expression], ...]  # natural log of the weight relative to the largest, and the part


class Repeat(NamedTuple):
    """A part that may be left out, or spoken several times."""

    part: Expression
    may_skip: bool
    may_repeat: bool


Expression = Union[Words, Reference, Series, Choice, Repeat]  # noqa: UP007, it refers to itself


class Rules(NamedTuple):
    """The rules of a grammar. Each sentence follows one of the public rules."""

    rules: Mapping[str, Expression]
    public: tuple[str, ...]


def check_references(rules: Mapping[str, Expression]) -> None:
    """Check that every rule that is referred to exists, and that no rule contains itself.

    Raises:
        ValueError: the message begins with the line.

    >>> check_references({"a": Reference("b", line=3)})
    Traceback (most recent call last):
    ValueError: 3: rule <b> is not defined; define it, or correct its name: <a>
    """
    used = {name: list(_references(expression)) for name, expression in rules.items()}
    for reference in (reference for references in used.values() for reference in references):
        if reference.rule not in rules:
            known = ", ".join(map(_shown, list(rules)[:_SHOWN_RULES]))
            name = _shown(reference.rule)
            raise ValueError(f"{reference.line}: rule {name} is not defined; define it, or correct its name: {known}")
    try:
        TopologicalSorter({name: [each.rule for each in references] for name, references in used.items()}).prepare()
    except CycleError as error:
        cycle = error.args[1][::-1]  # each rule, then one that it contains
        line = next(each.line for each in used[cycle[0]] if each.rule == cycle[1])
        shown = " contains ".join(map(_shown, cycle[:_SHOWN_RULES])) + " ..." * (len(cycle) > _SHOWN_RULES)
        raise ValueError(
            f"{line}: rule {shown}, and recursive rules are not supported; repeat a part with * (any number of "
            "times) or + (at least once)"
        ) from None


def _shown(rule: str) -> str:
    return f"<{visible(rule, SHOWN)}>"


def _references(expression: Expression) -> Iterator[Reference]:
    waiting = [expression]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Reference):
            yield part
        elif isinstance(part, Series):
            waiting += part.parts
        elif isinstance(part, Choice):
            waiting += [option for _, option in part.options]
        elif isinstance(part, Repeat):
            waiting.append(part.part)
