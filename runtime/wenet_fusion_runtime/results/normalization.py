"""One spelling for texts that look alike: Unicode NFC, without invisible characters and full-width letters.

Training, vocabularies, scoring, hot words and language models all use this function, so they agree.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Mapping

# Characters without width or glyph: control characters (those that end words are white space), soft hyphen, marks of
# direction, zero-width space, word joiner, byte order mark, variation selectors, fillers, tags.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff]"
)
# Zero-width joiner and non-joiner belong to the spelling of Arabic and Indic scripts, after a letter of theirs; nowhere
# else. A non-joiner also needs a letter behind it.
_JOINING = "[\u0600-\u109f\u1780-\u18af]"
_JOINERS = re.compile(f"(?<={_JOINING})(\u200d|\u200c(?=[\u200c\u200d]*{_JOINING}))[\u200c\u200d]*|[\u200c\u200d]+")
_WIDTH_FORMS = re.compile("[\u3000\uff10-\uff19\uff21-\uff3a\uff41-\uff5a\uff66-\uff9f]+")
_SHOWN_KEYS = 3


def normalize_text(text: str) -> str:
    """Return a text in Unicode NFC, without invisible characters, with full-width letters and digits made ASCII.

    Half-width Katakana becomes Katakana, the ideographic space a space. Punctuation and case stay as they are, and so
    do the joiners of Arabic and Indic scripts.

    >>> normalize_text("cafe\\u0301 \\u200b\\uff46ull")
    'café full'
    """
    if text.isascii() and text.isprintable():
        return text
    return unicodedata.normalize("NFC", _narrow(_without_invisible(text)))


def longest_mark_run(text: str) -> int:
    """Return how many combining marks stand in a row at most, in a text that `normalize_text` is about to sort.

    Sorting n marks takes n² steps: 1 s for 20,000.

    >>> longest_mark_run("e\u0301\u200b\u0308x")
    2
    """
    if text.isascii():
        return 0
    classes = map(unicodedata.combining, _narrow(_without_invisible(text)))
    return max((sum(1 for _ in run) for is_mark, run in itertools.groupby(classes, bool) if is_mark), default=0)


def spellings(text: str) -> tuple[str, ...]:
    """Return the forms in which a vocabulary may hold a text, the normal one first.

    Vocabularies of earlier versions hold texts as they were written: unchanged, or decomposed (NFD).

    >>> [len(form) for form in spellings("caf\\u00e9")]
    [4, 5]
    """
    normal = normalize_text(text)
    if normal.isascii() and normal == text:
        return (text,)
    return tuple(dict.fromkeys((normal, text, unicodedata.normalize("NFD", normal))))


def normalization_note(texts: Mapping[str, str]) -> str:
    """Return a line about the texts that `normalize_text` changes, by kind of change, with their first keys.

    Args:
        texts: texts by key.
    Returns:
        An empty string if it changes none.

    >>> normalization_note({"u1": "one", "u2": "t\\uff57o"})
    '1 of 2 transcripts was normalised (1 with full-width letters): u2'
    """
    changed = {key: text for key, text in texts.items() if normalize_text(text) != text}
    if not changed:
        return ""
    kinds = {
        "not in NFC": sum(not unicodedata.is_normalized("NFC", text) for text in changed.values()),
        "with invisible characters": sum(_without_invisible(text) != text for text in changed.values()),
        "with full-width letters": sum(_WIDTH_FORMS.search(text) is not None for text in changed.values()),
    }
    found = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
    keys = ", ".join(list(changed)[:_SHOWN_KEYS]) + ", ..." * (len(changed) > _SHOWN_KEYS)
    verb = "was" if len(changed) == 1 else "were"
    return f"{len(changed)} of {len(texts)} transcripts {verb} normalised ({found}): {keys}"


def _without_invisible(text: str) -> str:
    return _JOINERS.sub(lambda match: match[1] or "", _INVISIBLE.sub("", text))


def _narrow(text: str) -> str:
    return _WIDTH_FORMS.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
