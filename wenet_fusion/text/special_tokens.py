"""Special tokens in transcripts: marks such as `<unk>`, `[noise]` or `{LAUGH}` that do not spell spoken words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

from wenet_fusion_runtime.results.vocabulary import is_unspaced

SpecialTokens = Literal["refuse", "remove", "keep", "spell"]
SPECIAL_TOKEN_CHOICES: tuple[SpecialTokens, ...] = get_args(SpecialTokens)

_MARK = re.compile(r"<[^<>\s](?:[^<>]*[^<>\s])?>|\[[^\[\]]+\]|\{[^{}]+\}")
_UNKNOWN_NAMES = ("<unk>", "<unknown>")
_SHOWN_KINDS = 5


class Part(NamedTuple):
    """A part of a transcript: ordinary text, or one special token."""

    text: str
    is_special: bool


def may_hold_special_tokens(text: str) -> bool:
    """Return False if a transcript certainly holds no special token.

    >>> may_hold_special_tokens("SIX ONE"), may_hold_special_tokens("SIX [noise]")
    (False, True)
    """
    return "<" in text or "[" in text or "{" in text


def split_special_tokens(text: str) -> list[Part]:
    """Cut a transcript into text and special tokens; white space within a special token becomes `_`.

    >>> [part.text for part in split_special_tokens("SIX [loud noise] ONE")]
    ['SIX ', '[loud_noise]', ' ONE']
    """
    parts, end = [], 0
    for match in _MARK.finditer(text):
        parts.append(Part(text[end : match.start()], False))
        parts.append(Part("_".join(match[0].split()), True))
        end = match.end()
    parts.append(Part(text[end:], False))
    return [part for part in parts if part.text]


def find_special_tokens(text: str) -> list[str]:
    """Return the special tokens of a transcript in their order.

    >>> find_special_tokens("[laughter] six <unk>")
    ['[laughter]', '<unk>']
    """
    return [part.text for part in split_special_tokens(text) if part.is_special]


def remove_special_tokens(text: str) -> str:
    """Remove special tokens from a transcript; a space replaces each, but not beside Chinese or Japanese characters.

    >>> remove_special_tokens("SIX [noise] ONE{LAUGH}TWO"), remove_special_tokens("你[noise]好")
    ('SIX ONE TWO', '你好')
    """
    if not _MARK.search(text):
        return text

    def gap(match: re.Match[str]) -> str:
        beside = text[match.start() - 1 : match.start()], text[match.end() : match.end() + 1]
        return "" if any(map(is_unspaced, beside)) else " "

    return " ".join(_MARK.sub(gap, text).split())


def means_unknown(token: str) -> bool:
    """Return whether a special token stands for unintelligible words.

    >>> means_unknown("<UNK>"), means_unknown("[noise]")
    (True, False)
    """
    return token.casefold() in _UNKNOWN_NAMES


def count_special_tokens(texts: Iterable[str]) -> str:
    """Return the special tokens of transcripts with their counts, most frequent first; empty if there are none.

    >>> count_special_tokens(["[noise] one", "two [noise] <unk>"])
    '[noise] 2, <unk> 1'
    """
    counts = Counter(token for text in texts if may_hold_special_tokens(text) for token in find_special_tokens(text))
    shown = [f"{token} {count}" for token, count in counts.most_common(_SHOWN_KINDS)]
    return ", ".join(shown + ["..."] * (len(counts) > _SHOWN_KINDS))
