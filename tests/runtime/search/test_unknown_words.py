"""The penalty for words that the language model does not know, compared with enumeration of all alignments."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_hot_words import EMPTY
from test_scorers import PIECES, VOCABULARIES, WORDS, Bigrams, unit_ids
from test_searches import enumerate_prefixes, random_scores
from wenet_fusion_runtime.results.vocabulary import RESERVED, Vocabulary
from wenet_fusion_runtime.search.grammar.grammar import Grammar
from wenet_fusion_runtime.search.hot_words import HotWord
from wenet_fusion_runtime.search.language_models.lexicon import Lexicon
from wenet_fusion_runtime.search.prefix_beam import PrefixBeamSearch
from wenet_fusion_runtime.search.scorer_set import ScorerSet, make_scorers

KNOWN = {"pieces": ("abb", "b"), "characters": ("你", "好"), "words": ("one", "six")}
PHRASES = {"pieces": [HotWord("ab abbb", 0.5)], "characters": [HotWord("吗", 0.5)], "words": [HotWord("two two", 0.5)]}


class Listed(Bigrams):
    def __init__(self, words: tuple[str, ...]) -> None:
        super().__init__()
        self.words = words


def scorers(kind: str, penalty: float, hot_words: list[HotWord]) -> ScorerSet:
    return make_scorers(VOCABULARIES[kind], hot_words, Listed(KNOWN[kind]), 0.5, 0.25, unknown_word_penalty=penalty)


def final_score(scorers: ScorerSet, ids: tuple[int, ...]) -> float:
    """Return the scores of all scorers for a text."""
    score = scorers.start()
    for token in ids:
        score = scorers.advance(score, token)
    return scorers.scored(EMPTY, score, is_final=True).score


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(sorted(VOCABULARIES)),
    penalty=st.sampled_from([0.5, 3.0]),
    has_hot_words=st.booleans(),
)
def test_each_unknown_word_costs_the_penalty(seed: int, kind: str, penalty: float, has_hot_words: bool) -> None:
    scores, units = unit_ids(random_scores(seed, 5, 4)), VOCABULARIES[kind]
    hot_words = PHRASES[kind] if has_hot_words else []
    without, known = scorers(kind, 0.0, hot_words), {*KNOWN[kind]}
    for hot_word in hot_words:
        known |= set(hot_word.phrase.split())
    expected = {}
    for ids, (ctc_score, _) in enumerate_prefixes(scores).items():
        words = list(units.text(ids)) if kind == "characters" else units.text(ids).split()
        unknown = sum(word not in known for word in words)
        expected[ids] = ctc_score + final_score(without, ids) - penalty * unknown
    search = PrefixBeamSearch(10_000, scorers=scorers(kind, penalty, hot_words))
    search.advance(scores)
    found = {each.ids: each.score for each in search.final_hypotheses(10_000)}
    assert found.keys() == expected.keys()
    assert all(math.isclose(score, expected[ids], abs_tol=1e-9) for ids, score in found.items())


def test_a_word_costs_the_penalty_once_no_known_word_begins_like_it() -> None:
    a, b, space = (PIECES.tokens.index(token) for token in ("▁a", "b", "▁"))
    both = scorers("pieces", 0.0, []), scorers("pieces", 3.0, [])
    states, lost = [each.start() for each in both], []
    for token in (a, b, b, b, b, a, space, space):  # "abbbb a", known: abb, b
        states = [each.advance(state, token) for each, state in zip(both, states)]
        lost.append(states[0][0] - states[1][0])
    assert lost == pytest.approx([0, 0, 0, 3, 3, 3, 6, 6])  # "a" begins "abb", but is no word when it ends


def test_hot_words_of_a_stream_are_known_too() -> None:
    b = PIECES.tokens.index("b")
    free, costly = (scorers("pieces", penalty, PHRASES["pieces"]) for penalty in (0.0, 3.0))
    streams = [each.with_hot_words([HotWord("bb", 1.0)]) for each in (free, costly)]
    assert final_score(free, (b, b)) - final_score(costly, (b, b)) == pytest.approx(3.0)
    assert final_score(streams[0], (b, b)) == pytest.approx(final_score(streams[1], (b, b)))
    assert final_score(streams[0], (b, b, b)) - final_score(streams[1], (b, b, b)) == pytest.approx(3.0)


def lost(vocabulary: Vocabulary, known: tuple[str, ...], ids: tuple[int, ...], hot_words: list[HotWord]) -> float:
    """Return the nats that a penalty of 1 takes from a text."""
    scores = [
        final_score(make_scorers(vocabulary, hot_words, Listed(known), 0.5, unknown_word_penalty=penalty), ids)
        for penalty in (0.0, 1.0)
    ]
    return scores[0] - scores[1]


@pytest.mark.parametrize("boost, expected", [(1.0, 0.0), (0.0, 1.0), (-1.0, 1.0)])
def test_only_preferred_hot_words_are_known(boost: float, expected: float) -> None:
    ids = (PIECES.tokens.index("▁a"), PIECES.tokens.index("b"))
    assert lost(PIECES, ("b",), ids, [HotWord("ab", boost)]) == pytest.approx(expected)


@pytest.mark.parametrize(
    "tokens, join, known, phrase, text",
    [
        (["你好", "吗"], "words", ("吗",), "你好", ["你好"]),
        (["你好", "吗"], "pieces", ("吗",), "你好吗", ["你好", "吗"]),
        (["a", "b"], "pieces", ("a",), "ab", ["a", "b"]),
        (["▁a", "▁你", "好"], "pieces", ("a",), "你好", ["▁你", "好"]),
        (["▁cafe\u0301", "▁a"], "pieces", ("a",), "caf\u00e9", ["▁cafe\u0301"]),
    ],
)
def test_hot_words_are_split_like_texts(
    tokens: list[str], join: str, known: tuple[str, ...], phrase: str, text: list[str]
) -> None:
    vocabulary = Vocabulary([*RESERVED, *tokens], join)
    ids = tuple(vocabulary.tokens.index(token) for token in text)
    assert lost(vocabulary, known, ids, []) > 0 == lost(vocabulary, known, ids, [HotWord(phrase, 1.0)])


def test_the_unicode_form_of_words_does_not_matter() -> None:
    vocabulary = Vocabulary([*RESERVED, "▁cafe\u0301", "▁x"], "pieces")
    for known, expected in (("caf\u00e9", 0.0), ("cafe\u0301", 0.0), ("cafe", 1.0)):
        assert lost(vocabulary, ("x", known), (3,), []) == pytest.approx(expected)


def test_all_words_of_a_grammar_are_known() -> None:
    base = make_scorers(WORDS, [], Listed(("one",)), 0.5, unknown_word_penalty=3.0)
    free = make_scorers(WORDS, [], Listed(("one",)), 0.5)
    found = [final_score(each.with_grammar(Grammar("one\ntwo"), WORDS), (4,)) for each in (base, free)]
    assert found[0] == found[1] and final_score(base, (4,)) == pytest.approx(final_score(free, (4,)) - 3.0)


def test_a_model_that_cannot_list_its_words_is_refused() -> None:
    with pytest.raises(ValueError, match="^unknown_word_penalty: toy cannot list its words.* give the ARPA file"):
        make_scorers(PIECES, [], Bigrams(), 0.5, unknown_word_penalty=1.0)
    make_scorers(PIECES, [], Bigrams(), 0.5, unknown_word_penalty=0.0)


@settings(max_examples=50, deadline=None)
@given(words=st.lists(st.text("abc", min_size=1, max_size=4), max_size=8), text=st.text("abc", max_size=4))
def test_a_lexicon_finds_words_and_their_beginnings(words: list[str], text: str) -> None:
    lexicon = Lexicon(words)
    assert (text in lexicon) == (text in words)
    assert lexicon.has_beginning(text) == any(word.startswith(text) for word in words)
