"""Draw random sentences from templates of the library hassil, which Home Assistant's sentences use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np
from hassil.expression import Alternative, Expression, Group, ListReference, Permutation, RuleReference, TextChunk
from hassil.parse_expression import parse_sentence


class UnknownListError(ValueError):
    """A template names a list or a rule that does not exist."""


class Templates:
    """Draws sentences from templates.

    Args:
        lists: entries by the name of their list; an entry may be a template too.
        quantities: functions that draw an entry, by the name of a list that is too long to write.
        rules: templates by the name with which other templates refer to them.

    >>> templates = Templates({"room": ["kitchen"]}, {}, {"please": "[please]"})
    >>> templates.draw("(open|close) the {room} door", np.random.default_rng(0))
    'close the kitchen door'
    """

    def __init__(
        self,
        lists: Mapping[str, Sequence[str]],
        quantities: Mapping[str, Callable[[np.random.Generator], str]],
        rules: Mapping[str, str],
    ) -> None:
        self._lists, self._quantities, self._rules = lists, quantities, rules

    def draw(self, template: str, rng: np.random.Generator) -> str:
        """Return a random sentence of the template.

        Raises:
            UnknownListError: the template, or a rule in it, names a list or a rule that does not exist.
        """
        return " ".join(self._words(_parse(template), rng).split())

    def _words(self, part: Expression, rng: np.random.Generator) -> str:
        if isinstance(part, TextChunk):
            return part.original_text
        if isinstance(part, ListReference):
            return self._entry(part.list_name, rng)
        if isinstance(part, RuleReference):
            if part.rule_name not in self._rules:
                raise UnknownListError(f"there is no rule <{part.rule_name}>; add it to 'rules'")
            return self.draw(self._rules[part.rule_name], rng)
        if isinstance(part, Alternative):
            return self._words(part.items[rng.integers(len(part.items))], rng)
        assert isinstance(part, Group)
        order = rng.permutation(len(part.items)) if isinstance(part, Permutation) else range(len(part.items))
        return "".join(self._words(part.items[place], rng) for place in order)

    def _entry(self, name: str, rng: np.random.Generator) -> str:
        if name in self._quantities:
            return self._quantities[name](rng)
        if name not in self._lists:
            raise UnknownListError(f"there is no list {{{name}}}; add it to 'lists'")
        return self.draw(self._lists[name][rng.integers(len(self._lists[name]))], rng)


@cache
def _parse(template: str) -> Expression:
    return parse_sentence(template).expression
