"""Find the terms of a text: the names and rare words that speech about it is likely to contain."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property

from wenet_fusion_runtime.results.normalization import normalize_text
from wenet_fusion_runtime.results.vocabulary import Vocabulary, is_unspaced
from wenet_fusion_runtime.search.spelling import Spelling

MOST_TERMS = 500
LONGEST_NAME = 4  # words; a longer run of capitalised words is a heading
_RARE_LETTERS, _RARE_TOKENS = 5, 3
_WHOLE_WORD = 4  # a vocabulary with a token of this many letters holds frequent words as single tokens
_END_MARKS = ".!?:;\u2026\u3002\uff01\uff1f\uff1b"
# Matches the spaces after a run of marks, not the run: trying each of its marks as a start would take quadratic time.
_SENTENCE_END = re.compile(rf"(?<=[{_END_MARKS}])\s+|[\n\r\u2028\u2029]\s*|[\u3002\uff01\uff1f\uff1b]")
_TITLE = re.compile(r"\u300a([^\u300b]{2,20})\u300b|\u300c([^\u300d]{2,20})\u300d|\u300e([^\u300f]{2,20})\u300f")
_NO_NAME = " 0 "  # stands for a character of a script without spaces, which has no capitals
_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")


class TermFinder:
    """Finds the terms of a text that a vocabulary can spell. It is read-only, and streams share it.

    A term is

    - a name: a capitalised word, or up to four capitalised words in a row (then each of these words counts too). The
      first word of a sentence counts only if it is also capitalised within a sentence, or has two capitals. A line
      break ends a sentence. Single letters ("I") do not count, and a text in capitals has no names;
    - a rare word: a word that is not in `known_words`. If `known_words` is empty, a word of at least five letters that
      takes at least three tokens, provided that the vocabulary holds frequent words as single tokens;
    - a text of 2 to 20 characters within Chinese or Japanese title marks or quotation marks.

    Terms have up to 200 characters.

    Args:
        vocabulary: the model's tokens. Terms are spelled in the case of its tokens.
        known_words: words of a language model; empty without one.

    >>> from wenet_fusion_runtime.results.vocabulary import RESERVED
    >>> finder = TermFinder(Vocabulary([*RESERVED, *"ABCDEFGHIJKLMNOPQRSTUVWXYZ\u2581"], "pieces"))
    >>> finder.find("When did Anna Karenina meet Vronsky? She met him in Moscow.")
    ('ANNA KARENINA', 'ANNA', 'KARENINA', 'VRONSKY', 'MOSCOW')
    """

    def __init__(self, vocabulary: Vocabulary, known_words: Sequence[str] = ()) -> None:
        self._vocabulary, self._words = vocabulary, known_words

    @cached_property
    def _spelling(self) -> Spelling:
        return Spelling(self._vocabulary)

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(normalize_text(word).casefold() for word in self._words)

    @cached_property
    def _has_whole_words(self) -> bool:
        tokens, reserved = self._vocabulary.tokens, self._vocabulary.reserved
        texts = (text for token, text in enumerate(tokens) if token not in reserved)
        return any(len(text.strip("\u2581")) >= _WHOLE_WORD for text in texts)

    def find(self, text: str) -> tuple[str, ...]:
        """Return the first 500 terms of a text that can be spelled, each once: titles, then the rest in order."""
        found: dict[str, None] = {}
        for candidate in self._candidates(normalize_text(text)):
            spelled = self._spelling.spell_any_case(candidate)
            if spelled is not None:
                found[spelled[1]] = None
                if len(found) == MOST_TERMS:
                    break
        return tuple(found)

    def _candidates(self, text: str) -> Iterator[str]:
        yield from (title for match in _TITLE.finditer(text) for title in match.groups() if title)
        text = "".join(_NO_NAME if is_unspaced(letter) else letter for letter in text)
        sentences = [_WORD.findall(sentence) for sentence in split_sentences(text)]
        has_case = any(map(str.islower, text))
        inner = {word for words in sentences for word in words[1:] if _is_capitalised(word)}
        for words in sentences:
            run: list[str] = []
            for index, word in enumerate([*words, ""]):
                is_sure = index > 0 or word in inner or sum(letter.isupper() for letter in word) > 1
                if has_case and _is_capitalised(word) and is_sure:
                    run.append(word)
                    continue
                if 1 < len(run) <= LONGEST_NAME:
                    yield " ".join(run)
                yield from run
                run = []
                if word and self._is_rare(word):
                    yield word

    def _is_rare(self, word: str) -> bool:
        if not any(map(str.isalpha, word)):
            return False
        if self._words:
            return word.casefold() not in self._known
        if len(word) < _RARE_LETTERS or not self._has_whole_words:
            return False
        spelled = self._spelling.spell_any_case(word)
        return spelled is not None and spelled[0].fewest_tokens >= _RARE_TOKENS


def split_sentences(text: str) -> list[str]:
    """Split a text into sentences without the marks at their ends, in linear time.

    Sentences end at line breaks, at marks before a space, and at full-width marks.

    >>> split_sentences("Version 2.0 is out! See\\nAnna... \u597d\u3002\u597d")
    ['Version 2.0 is out', 'See', 'Anna', '\u597d', '\u597d']
    """
    sentences = (part.strip().rstrip(_END_MARKS) for part in _SENTENCE_END.split(text))
    return [sentence for sentence in sentences if sentence]


def _is_capitalised(word: str) -> bool:
    return len(word) > 1 and word[0].isupper() and word[1] not in "'\u2019"
