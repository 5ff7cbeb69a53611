"""Rewrite transcripts so that synthesizers read them well; change phonemes as speakers with an accent do."""

from __future__ import annotations

import re

import numpy as np

_DIGITS = {"zero", "oh", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"}
_PAUSE_SHARE = 0.3  # share of letter and digit strings that get pauses after some letters and digits

# Substitutions "PATTERN>REPLACEMENT" of phonemes in the alphabet of the package misaki. A pattern is a regular
# expression in which ^ is the start and $ the end of a word.
_ACCENTS = {
    "mandarin": "θ>s ð>z v>w ɪ>i æ>ɛ [dt]$> l$>ɹ",
    "german": "θ>s ð>z w>v æ>ɛ d$>t z$>s ɡ$>k",
    "spanish": "ɪ>i z>s v>b ʌ>ɑ æ>ɑ ʃ>ʧ ^s(?=[tpk])>ɛs",
    "french": "θ>s ð>z h> ɪ>i ʧ>ʃ ʤ>ʒ",
    "indian": "w>v θ>t ð>d z>ʤ æ>ɛ",
    "japanese": "l>ɹ θ>s ð>z v>b æ>ɑ ʌ>ɑ",
}
_WORD_END, _WORD_START = r"(?=[ .,?]|$)", r"(?:^|(?<= ))"
_SUBSTITUTION_SHARE = 0.6  # share of an accent's substitutions that an utterance gets


def spoken_form(kind: str, transcript: str, rng: np.random.Generator) -> str:
    """Return a transcript as a sentence for a synthesizer: letters in upper case, a mark at the end, some pauses.

    >>> rng = np.random.default_rng(0)
    >>> spoken_form("letters", "A B TWO", rng), spoken_form("times", "AT TWO PM", rng)
    ('A B two.', 'at two P M.')
    """
    if kind.startswith("foreign-"):
        return transcript
    words = transcript.lower().split()
    for place, word in enumerate(words):
        before = words[place - 1] if place else ""
        if word == "pm" or (word == "am" and (before in _DIGITS or re.search("teen|ty|ten|eleven|twelve", before))):
            words[place] = " ".join(word.upper())
        elif word == "i" or word.startswith("i'") or (len(word) == 1 and (word != "a" or kind == "letters")):
            words[place] = word.capitalize()
    if kind in ("letters", "digits") and rng.random() < _PAUSE_SHARE:
        words = [word + "," * (rng.random() < 0.5) for word in words]
    question = words[0] in ("what", "what's", "how", "is", "are", "will", "where", "when", "who", "can", "could")
    return " ".join(words).rstrip(",") + ("?" if question else ".")


def with_accent(phonemes: str, rng: np.random.Generator) -> str:
    """Return phonemes with some of the substitutions of a random accent."""
    for substitution in _ACCENTS[str(rng.choice(list(_ACCENTS)))].split():
        pattern, replacement = substitution.split(">")
        if rng.random() < _SUBSTITUTION_SHARE:
            pattern = pattern.replace("$", _WORD_END).replace("^", _WORD_START)
            phonemes = re.sub(pattern, replacement, phonemes)
    return phonemes
