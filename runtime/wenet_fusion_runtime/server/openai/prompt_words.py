"""Hot words from the prompt and the keywords of OpenAI's protocols."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

from wenet_fusion_runtime.results.vocabulary import Vocabulary
from wenet_fusion_runtime.search.context_terms import split_sentences
from wenet_fusion_runtime.search.hot_words import HotWord
from wenet_fusion_runtime.search.modes import SEARCH_MODES
from wenet_fusion_runtime.search.spelling import Spelled, Spelling

MOST_READ = 2000  # characters of keywords and prompt; the rest is ignored
MOST_WORDS = 200  # most hot words of one prompt and its keywords
LONGEST_PHRASE = 4  # words; longer parts are context
_SEPARATOR = re.compile(r",(?!\d)|[|\u3001\uff0c]")  # not the comma within a number
_QUOTES = " \t\"'()[]{}\u201c\u201d\u2018\u2019\u300a\u300b\u300c\u300d"


class Hints(NamedTuple):
    """Hot words and context from a prompt and keywords."""

    hot_words: tuple[HotWord, ...] = ()
    context: str = ""  # sentences, whose names and rare words become hot words too (see `TermFinder`)


class PromptWords:
    """Turns prompts into hot words that a vocabulary can spell.

    A prompt is a list of names, sentences, or both. It is split at commas and ends of sentences: a part of at most four
    words is a phrase, a longer part is context. A prompt is only a hint, so phrases that cannot be spelled are left
    out. Greedy search keeps one hypothesis, so it gets no hints.

    Args:
        vocabulary: the model's tokens. Phrases are written in the case of its tokens.
        mode: the search mode that would use the hints.

    >>> vocabulary = Vocabulary(["<blank>", "<unk>", "<sos/eos>", "ONE", "TWO"], "words")
    >>> hints = PromptWords(vocabulary, "ctc_prefix_beam_search").find("Two, one two, six.")
    >>> [word.phrase for word in hints.hot_words]
    ['TWO', 'ONE TWO']
    """

    def __init__(self, vocabulary: Vocabulary, mode: str) -> None:
        self._vocabulary, self._is_used = vocabulary, SEARCH_MODES[mode].has_alternatives

    @cached_property
    def _spelling(self) -> Spelling:
        return Spelling(self._vocabulary)

    def find(self, prompt: str, keywords: Sequence[str] = (), chosen: Sequence[HotWord] = ()) -> Hints:
        """Return hot words with the default boost, and context. Takes up to half a second, so call it in a thread.

        Args:
            prompt: free text.
            keywords: phrases, which are not split.
            chosen: hot words with their own boosts; their phrases are left out of the result.
        """
        if not self._is_used or not (prompt or keywords):
            return Hints()
        split = [part for sentence in split_sentences(prompt[:MOST_READ]) for part in _SEPARATOR.split(sentence)]
        parts = [" ".join(part.split()).strip(_QUOTES) for part in split]
        phrases = [part for part in parts if part.count(" ") < LONGEST_PHRASE]
        taken = {spelled[0] for word in chosen if (spelled := self._spelling.spell_any_case(word.phrase))}
        found: dict[Spelled, str] = {}
        left = MOST_READ
        for phrase in dict.fromkeys([*keywords, *phrases]):
            left -= len(phrase)
            if left < 0 or len(found) == MOST_WORDS:
                break
            spelled = self._spelling.spell_any_case(phrase)
            if spelled is not None and spelled[0] not in taken:
                found.setdefault(*spelled)
        context = ". ".join(part for part in parts if part.count(" ") >= LONGEST_PHRASE)
        return Hints(tuple(map(HotWord, found.values())), context)
