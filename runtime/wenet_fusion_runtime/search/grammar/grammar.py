"""A grammar: the set of sentences that may be recognised."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from wenet_fusion_runtime.search.grammar.expressions import Choice, Rules, Words
from wenet_fusion_runtime.search.grammar.jsgf import MAGIC, parse_jsgf

MOST_STATES = 300_000
DEFAULT_THRESHOLD = 1.0
_GARBAGE = "[unk]"  # Vosk's entry for other speech; it is skipped, because GrammarSearch rejects by its grammar gap


@dataclass(frozen=True)
class Grammar:
    """The sentences that may be recognised: a list of phrases, one per line, or JSGF.

    Raises:
        ValueError: the text has no phrase or is not valid JSGF; the message names the line.

    >>> Grammar("turn on the light\\nturn off the light").rules.public
    ('phrases',)
    >>> Grammar("#JSGF V1.0; public <light> = turn (on | off) the light")
    Traceback (most recent call last):
    ValueError: grammar:1: rule <light> is not terminated: expected ';', found the end of the file in line 1
    """

    text: str
    source: str = "grammar"  # the file, for error messages
    most_states: int = MOST_STATES  # largest number of states of the automaton, with every rule expanded
    is_bounded: bool = False  # also limit the work of expanding the automaton, for grammars that clients send

    def __post_init__(self) -> None:
        assert self.rules

    @cached_property
    def rules(self) -> Rules:
        """The rules of the text."""
        try:
            return parse_jsgf(self.text) if self.text.lstrip().startswith(MAGIC) else _phrases(self.text)
        except ValueError as error:
            raise ValueError(f"{self.source}:{error}") from None


def read_grammar(path: str | Path) -> Grammar:
    """Read a grammar: a list of phrases, one per line, or JSGF.

    In a list, empty lines, lines that begin with # and the entry "[unk]" are skipped. The words are not yet checked
    against a model's vocabulary.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not UTF-8, has no phrase, or is not valid JSGF.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 at byte {error.start}; save the grammar as UTF-8") from None
    return Grammar(text, str(path))


def _phrases(text: str) -> Rules:
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1)]
    phrases = [
        Words(tuple(line.split()), number)
        for number, line in lines
        if line and not line.startswith("#") and line != _GARBAGE
    ]
    if not phrases:
        raise ValueError("1: the grammar is empty; write one phrase per line, or JSGF after the header '#JSGF V1.0;'")
    return Rules({"phrases": Choice(tuple((0.0, phrase) for phrase in phrases))}, ("phrases",))
