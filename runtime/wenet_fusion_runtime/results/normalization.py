"""Give texts that look alike one spelling: Unicode NFC without invisible characters and full-width letters.

Training, vocabularies, scoring, hot words and language models all use `normalize_text`, so they agree.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Mapping

# Characters without width or glyph: control characters (except white space), soft hyphen, direction marks, zero-width
# space, word joiner, byte order mark, variation selectors, fillers, tags.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff]"
)
# Zero-width joiners and non-joiners are part of the spelling in Arabic and Indic scripts. They are kept after a letter
# of such a script; a non-joiner must also precede such a letter.
_JOINING = "[\u0600-\u109f\u1780-\u18af]"
_JOINERS = re.compile(f"(?<={_JOINING})(\u200d|\u200c(?=[\u200c\u200d]*{_JOINING}))[\u200c\u200d]*|[\u200c\u200d]+")
_WIDTH_FORMS = re.compile("[\u3000\uff10-\uff19\uff21-\uff3a\uff41-\uff5a\uff66-\uff9f]+")
_SHOWN_KEYS = 3


def normalize_text(text: str) -> str:
    """Return a text in Unicode NFC without invisible characters; full-width letters and digits become ASCII.

    Half-width Katakana becomes Katakana, and the ideographic space becomes a space. Punctuation, case and the joiners
    of Arabic and Indic scripts do not change.

    >>> normalize_text("cafe\\u0301 \\u200b\\uff46ull")
    'café full'
    """
    if text.isascii() and text.isprintable():
        return text
    return unicodedata.normalize("NFC", _narrow(_without_invisible(text)))


def longest_mark_run(text: str) -> int:
    """Return the length of the longest run of combining marks in a text, to check before `normalize_text`.

    NFC sorts each run, and sorting n marks takes n² steps: 1 s for 20,000.

    >>> longest_mark_run("e\u0301\u200b\u0308x")
    2
    """
    if text.isascii():
        return 0
    classes = map(unicodedata.combining, _narrow(_without_invisible(text)))
    return max((sum(1 for _ in run) for is_mark, run in itertools.groupby(classes, bool) if is_mark), default=0)


def spellings(text: str) -> tuple[str, ...]:
    """Return the forms in which a vocabulary may hold a text, the normalised one first.

    Vocabularies of earlier versions were not normalised: they hold texts unchanged or decomposed (NFD).

    >>> [len(form) for form in spellings("caf\\u00e9")]
    [4, 5]
    """
    normal = normalize_text(text)
    if normal.isascii() and normal == text:
        return (text,)
    return tuple(dict.fromkeys((normal, text, unicodedata.normalize("NFD", normal))))


def normalization_note(texts: Mapping[str, str]) -> str:
    """Return a line that counts the texts that `normalize_text` changes, by kind of change, and names the first ones.

    Args:
        texts: texts by key.
    Returns:
        The line; empty if no text changes.

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
