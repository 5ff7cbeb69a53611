"""One spelling of texts that look alike, in training, vocabularies, scoring, hot words and language models."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wenet_fusion_runtime.results.normalization import normalization_note, normalize_text
from wenet_fusion_runtime.results.vocabulary import Vocabulary
from wenet_fusion_runtime.search.hot_words import HotWord, check_hot_words
from wenet_fusion_runtime.search.spelling import Spelling

from wenet_fusion.scoring.transcripts import Counting
from wenet_fusion.text.tokenizer import CharTokenizer

NORMAL = "café Việt full"
FORMS = {
    "composed": NORMAL,
    "decomposed": unicodedata.normalize("NFD", NORMAL),
    "zero-width": "\ufeffcafé Việt\u200b fu\u00adll\u2060",
    "full-width": "café Việt \uff46\uff55\uff4c\uff4c",
    "ideographic space": "café Việt\u3000full",
    "directions": "\u202acafé\u202c Việt full\u200e",
    "control": "ca\x00fé Việt full\x7f",
}


@pytest.mark.parametrize("form", FORMS)
def test_texts_that_look_alike_are_one(form):
    text = FORMS[form]
    assert normalize_text(text) == NORMAL
    reserved = ("<blank>", "<unk>", "<sos/eos>")
    words = Vocabulary((*reserved, *NORMAL.split()), "words")
    letters = Vocabulary((*reserved, *sorted(set(NORMAL.replace(" ", "▁")))), "pieces")
    for vocabulary in (words, letters):
        tokenizer = CharTokenizer(vocabulary)
        assert tokenizer.encode(text) == tokenizer.encode(NORMAL), "training"
        assert Spelling(vocabulary).spell(text) == Spelling(vocabulary).spell(NORMAL), "hot words"
    assert check_hot_words([HotWord(text), HotWord(NORMAL)], words) == ((HotWord(text),), ())
    assert Counting("char").tokens(text) == Counting("char").tokens(NORMAL), "scoring"


@pytest.mark.parametrize(
    "text, normal",
    [
        ("می\u200cخواهم", "می\u200cخواهم"),  # Persian: the non-joiner is part of the spelling
        ("می\u200c خواهم\u200c", "می خواهم"),
        ("ක්\u200dෂ", "ක්\u200dෂ"),  # Sinhala conjunct
        ("न\u200d", "न\u200d"),
        ("no\u200cne\u200d", "none"),
        ("ｶﾞｲﾄﾞ", "ガイド"),
        ("２０，％", "20，％"),  # full-width punctuation is Chinese punctuation
        ("½ ﬁ ①", "½ ﬁ ①"),  # no other compatibility forms
        ("葛\U000e0100", "葛"),
        ("\u212b", "\u00c5"),
    ],
)
def test_characters_that_normalisation_keeps_and_removes(text, normal):
    assert normalize_text(text) == normal


LETTERS = st.sampled_from("e\u0301\u200b\u200c\u200d\uff41\uff76\uff9e\u0646\u3000")


@given(st.text(st.one_of(st.characters(codec="utf-8"), LETTERS)))
@settings(max_examples=200, deadline=None)
def test_normalising_twice_changes_nothing(text):
    normal = normalize_text(text)
    assert normalize_text(normal) == normal and unicodedata.is_normalized("NFC", normal)


def test_changes_are_counted_by_kind():
    texts = {"u1": "one", "u2": FORMS["decomposed"], "u3": "x\u200b \uff41", "u4": "\u200by", "u5": "\u200bz"}
    assert normalization_note(texts) == (
        "4 of 5 transcripts were normalised (1 not in NFC, 3 with invisible characters, 1 with full-width letters): "
        "u2, u3, u4, ..."
    )
    assert normalization_note({"u1": NORMAL}) == ""


def test_a_vocabulary_of_an_earlier_version_is_used_as_it_is():
    reserved = ("<blank>", "<unk>", "<sos/eos>")
    decomposed = unicodedata.normalize("NFD", "việt")
    letters = CharTokenizer(Vocabulary((*reserved, *dict.fromkeys(decomposed)), "pieces"))
    assert letters.encode("việt") == letters.encode(decomposed) != []
    assert letters.decode(letters.encode("việt")) == decomposed
    words = Vocabulary((*reserved, decomposed, "\uff41", "b\u200b"), "words")
    for number, text in enumerate(("việt", "\uff41", "b\u200b"), start=3):
        assert CharTokenizer(words).encode(text) == [number]
    assert CharTokenizer(words).encode(f"{decomposed} \uff41") == [3, 4], "a text as it was written"
    assert not check_hot_words([HotWord("việt"), HotWord("\uff41")], words).problems
