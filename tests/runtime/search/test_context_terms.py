"""Terms of a text: names, rare words, titles, in the spelling of the vocabulary."""

import string
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wenet_fusion_runtime.results.vocabulary import RESERVED, Vocabulary
from wenet_fusion_runtime.search.context_terms import MOST_TERMS, TermFinder
from wenet_fusion_runtime.search.hot_words import HotWord
from wenet_fusion_runtime.search.scorer_set import make_scorers

UPPER = Vocabulary([*RESERVED, "▁", "'", *string.ascii_uppercase], "pieces")
MIXED = Vocabulary([*RESERVED, "▁", "'", *string.ascii_letters, *"你好红楼梦"], "pieces")
WHOLE = Vocabulary([*RESERVED, "▁", *string.ascii_lowercase, "▁meeting", "▁about", "▁in", "▁the"], "pieces")


@pytest.mark.parametrize(
    "text, terms",
    [
        ("Today we meet Anna Karenina.", ["Anna Karenina", "Anna", "Karenina"]),
        ("Anna came. Then we saw her.", []),  # the first word of a sentence may be any word
        ("Anna came. Then we saw Anna.", ["Anna"]),
        ("NASA called. I'm sure that I know.", ["NASA"]),
        ("THE WHOLE TEXT IS LOUD", []),
        ("the Quick Brown Fox Jumps Over", ["Quick", "Brown", "Fox", "Jumps", "Over"]),  # a heading
        ("see Zürich and Bern", ["Bern"]),  # no token has a ü
        ("我在Google和《红楼梦》工作", ["红楼梦", "Google"]),
        ("我说「你好」", ["你好"]),
        ("we talk about money\nThe budget is small\nAnd we go home", []),  # a line break ends a sentence
        ("we meet\r\nThe Oslo team", ["Oslo"]),
        ("we meet... The Oslo team?! Then go", ["Oslo"]),
        ("we meet " + "Anna" * 50 + "s Oslo", ["Oslo"]),  # longer than a hot word may be
        ("", []),
        ("123 4.5 -- !!", []),
    ],
)
def test_names_and_titles(text: str, terms: list[str]) -> None:
    assert TermFinder(MIXED).find(text) == tuple(terms)


def test_terms_have_the_case_of_the_vocabulary() -> None:
    assert TermFinder(UPPER).find("we go to Oslo") == ("OSLO",)
    assert TermFinder(WHOLE).find("we go to Oslo") == ("oslo",)


def test_words_that_the_language_model_lacks_are_rare() -> None:
    finder = TermFinder(UPPER, ["WE", "TALK", "ABOUT", "THE"])
    assert finder.find("we talk about the zygote") == ("ZYGOTE",)


def test_words_of_many_tokens_are_rare_if_frequent_words_are_one_token() -> None:
    assert TermFinder(WHOLE).find("the meeting about zygotes in the pit") == ("zygotes",)
    assert TermFinder(UPPER).find("the meeting about zygotes") == ()


def test_a_long_text_has_a_bounded_number_of_terms() -> None:
    names = [f"{a}{b}{c}".capitalize() for a in "abcdefghij" for b in "abcdefghij" for c in "abcdefghij"]
    assert len(TermFinder(UPPER).find(", x ".join(names))) == MOST_TERMS


@pytest.mark.parametrize("run", [".", " ", ".!?", "\n", ". ", ".\n", "\n ", "。", "…。", "A.", "a-", "《", "\u200d"])
def test_hostile_texts_take_linear_time(run: str) -> None:
    """With quadratic splitting, a run of marks of this length would take 15 s or more."""
    begin = time.process_time()
    assert TermFinder(UPPER).find(f"we{run * (20_000 // len(run))}x") == ()
    assert time.process_time() - begin < 5


@settings(max_examples=50, deadline=None)
@given(text=st.text(st.sampled_from("aAbB '’-.!\n《》「」你好_1é")), known=st.lists(st.text("ab", max_size=3)))
def test_every_term_is_a_usable_hot_word(text: str, known: list[str]) -> None:
    for vocabulary in (UPPER, MIXED, WHOLE):
        terms = TermFinder(vocabulary, known).find(text)
        assert len(set(terms)) == len(terms)
        make_scorers(vocabulary, [HotWord(term) for term in terms])
