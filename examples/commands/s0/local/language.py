"""Draw random sentences of the grammar in conf/grammar.yaml and of Home Assistant."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import yaml
from quantities import QUANTITIES, date, digits, letters, number, time
from templates import Templates, UnknownListError

Draw = Callable[[np.random.Generator], str]

_OWN_SHARE = 0.6  # share of the commands that are our own; the others are Home Assistant's
_QUANTITY_KINDS: dict[str, Draw] = {
    "digits": digits, "numbers": number, "letters": letters, "times": time, "dates": date,
}  # fmt: skip


@dataclass(frozen=True)
class Grammar:
    """Contents of conf/grammar.yaml."""

    shares: dict[str, float]  # by kind of sentence
    words: list[str]  # words and short phrases that are sentences by themselves
    lists: dict[str, list[str]]  # name of a list in templates -> its entries
    rules: dict[str, str]  # name of a rule in templates -> its template
    commands: list[str]  # templates of sentences


def read_grammar(path: Path) -> Grammar:
    """Read a grammar file.

    Raises:
        OSError: the file cannot be read.
        ValueError: a part is missing or unknown, or a share names an unknown kind.
    """
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    parts = [field.name for field in dataclasses.fields(Grammar)]
    if not isinstance(content, dict) or set(content) != set(parts):
        raise ValueError(f"{path}: must hold the parts {', '.join(parts)}, and no others")
    grammar = Grammar(**content)
    kinds = [*_QUANTITY_KINDS, "words", "commands"]
    if unknown := sorted(set(grammar.shares) - set(kinds)):
        raise ValueError(f"{path}: shares: {', '.join(unknown)} is unknown; there are {', '.join(kinds)}")
    return grammar


def transcript(text: str) -> str:
    """Return a text in upper case, with only letters, apostrophes and single spaces.

    >>> transcript("What's the time in  New-York?")
    "WHAT'S THE TIME IN NEW YORK"
    """
    return " ".join(re.sub(r"[^A-Z' ]", " ", text.upper()).split())


class Language:
    """Draws sentences of a grammar.

    Args:
        grammar: see `read_grammar`.

    Raises:
        OSError: home-assistant-intents is missing.
    """

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self._own = Templates(grammar.lists, QUANTITIES, grammar.rules)
        shares = np.array(list(grammar.shares.values()), float)
        self._kinds, self._shares = list(grammar.shares), shares / shares.sum()
        lists = dict(grammar.lists)
        for theirs, ours in (
            ("shopping_list_item", "item"), ("todo_list_item", "item"), ("timer_name", "timer"), ("zone", "city"),
            ("search_query", "music"), ("timer_command", "task"),
        ):  # fmt: skip
            lists[theirs] = grammar.lists[ours]
        self._others = InstalledSentences("en", lists, QUANTITIES)

    def draw(self, rng: np.random.Generator) -> tuple[str, str]:
        """Return the kind and the transcript of a random sentence."""
        kind = str(rng.choice(self._kinds, p=self._shares))
        return kind, transcript(self._sentence(kind, rng))

    def _sentence(self, kind: str, rng: np.random.Generator) -> str:
        if kind in _QUANTITY_KINDS:
            return _QUANTITY_KINDS[kind](rng)
        if kind == "words":
            return self._grammar.words[rng.integers(len(self._grammar.words))]
        if rng.random() > _OWN_SHARE:
            return self._others.draw(rng)
        return self._own.draw(self._grammar.commands[rng.integers(len(self._grammar.commands))], rng)


class InstalledSentences:
    """Draws sentences of the package home-assistant-intents.

    Args:
        language: code of a language, such as en.
        lists: entries of lists that the package does not fill, such as the names of rooms.
        quantities: functions that draw numbers; empty: no sentences with numbers.

    Raises:
        OSError: the package is missing, or it lacks the language.
    """

    def __init__(self, language: str, lists: Mapping[str, Sequence[str]], quantities: Mapping[str, Draw]) -> None:
        try:
            source = json.loads((files("home_assistant_intents") / "data" / f"{language}.json").read_text("utf-8"))
        except ModuleNotFoundError as error:
            raise OSError("home_assistant_intents is missing; run: pip install -r requirements.txt") from error
        known, drawn = dict(lists), dict(quantities)
        for name, entry in source["lists"].items():
            if "values" in entry:
                known.setdefault(name, [value if isinstance(value, str) else value["in"] for value in entry["values"]])
            elif "range" in entry and quantities:
                drawn[name] = number
        self._templates = Templates(known, drawn, source["expansion_rules"])
        groups = (group for intent in source["intents"].values() for group in intent["data"])
        self._sentences = [sentence for group in groups for sentence in group["sentences"]]

    def draw(self, rng: np.random.Generator) -> str:
        """Return a random sentence whose lists are all known, without digits and symbols."""
        while True:
            try:
                text = self._templates.draw(self._sentences[rng.integers(len(self._sentences))], rng)
            except UnknownListError:
                continue
            if not re.search(r"[^\w\s'.,?-]|\d", text):
                return text
