"""Hot words: lists of phrases that a search prefers or suppresses."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from wenet_fusion_runtime.console import SHOWN, visible
from wenet_fusion_runtime.results.vocabulary import Vocabulary
from wenet_fusion_runtime.search.spelling import Spelled, Spelling

DEFAULT_BOOST = 1.5
LARGEST_BOOST = 100.0


class HotWord(NamedTuple):
    """A phrase of one or more words, written as in the results, with its boost.

    The boost is in nats per token of the phrase's shortest spelling, as in WeNet and icefall, because more tokens of a
    longer phrase can be misrecognised. The whole phrase gets the boost times this number of tokens, whichever tokens
    spell it. Negative boosts suppress a phrase. A boost of 0 does nothing; in the list of one stream it cancels the
    boost from the list of all streams.

    >>> HotWord("New York", 2.0)
    HotWord(phrase='New York', boost=2.0, source='')
    """

    phrase: str
    boost: float = DEFAULT_BOOST
    source: str = ""  # "FILE:LINE", for error messages


class CheckedHotWords(NamedTuple):
    """The usable hot words, and a message about each of the others."""

    usable: tuple[HotWord, ...]
    problems: tuple[str, ...]


def check_hot_words(hot_words: Iterable[HotWord], vocabulary: Vocabulary) -> CheckedHotWords:
    """Separate usable hot words from those with an empty or unspellable phrase or a boost out of range.

    A phrase that is given twice with the same boost counts once; with another boost, the second one is unusable.

    >>> words = Vocabulary(["<blank>", "<unk>", "<sos/eos>", "one", "two"], "words")
    >>> check_hot_words([HotWord("two one"), HotWord("six")], words).problems
    ("hot word 'six': no token is 'six'",)
    """
    spelled, problems = spell_hot_words(hot_words, Spelling(vocabulary))
    return CheckedHotWords(tuple(spelled.values()), tuple(problems))


def spell_hot_words(hot_words: Iterable[HotWord], spelling: Spelling) -> tuple[dict[Spelled, HotWord], list[str]]:
    """Return the usable hot words, keyed by spelling, and a message for each unusable one; see `check_hot_words`."""
    usable: dict[Spelled, HotWord] = {}
    problems = []
    for hot_word in hot_words:
        try:
            spelled = spelling.spell(hot_word.phrase)
            _check_boost(hot_word.boost)
            first = usable.setdefault(spelled, hot_word)
            if first.boost != hot_word.boost:
                raise ValueError(f"has boost {hot_word.boost:g} here, {first.boost:g} before")
        except ValueError as error:
            source, phrase = f"{hot_word.source}: " * bool(hot_word.source), visible(hot_word.phrase, SHOWN)
            problems.append(f"{source}hot word '{phrase}': {error}")
    return usable, problems


def _check_boost(boost: float) -> None:
    if not abs(boost) <= LARGEST_BOOST:  # also true for NaN
        raise ValueError(f"has boost {boost:g}, which must be {-LARGEST_BOOST:g} to {LARGEST_BOOST:g}")


def parse_hot_word(text: str, separator: str, source: str = "") -> HotWord:
    """Parse a phrase that may be followed by the separator and its boost.

    Raises:
        ValueError: the text after the last separator is not a number.

    >>> parse_hot_word("NEW YORK=4", "=").boost
    4.0
    """
    phrase, found, boost = text.rpartition(separator)
    if not found:
        return HotWord(text.strip(), source=source)
    try:
        return HotWord(phrase.strip(), float(boost), source)
    except ValueError:
        raise ValueError(
            f"{source}: " * bool(source) + f"hot word '{phrase.strip()}' has boost '{boost.strip()}', "
            "which is not a number"
        ) from None


def read_hot_words(path: str | Path) -> CheckedHotWords:
    """Read a list of hot words: one phrase per line, optionally followed by a tab and its boost.

    Empty lines and lines that begin with # are skipped. The phrases are not yet checked against a model's vocabulary;
    see `check_hot_words`.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not UTF-8.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 at byte {error.start}; save the list of hot words as UTF-8") from None
    hot_words, problems = [], []
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.startswith("#"):
            try:
                hot_words.append(parse_hot_word(line, "\t", f"{path}:{number}"))
            except ValueError as error:
                problems.append(str(error))
    return CheckedHotWords(tuple(hot_words), tuple(problems))
