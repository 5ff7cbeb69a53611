"""The rescoring formula, tokens and their text."""

import numpy as np
import pytest
from wenet_fusion_runtime.results.result import Hypothesis
from wenet_fusion_runtime.results.vocabulary import JOINS, RESERVED, Vocabulary
from wenet_fusion_runtime.search.rescoring import rescore

FIRST = Hypothesis((3,), -1.0, -1.0, (0,), (0.9,))
SECOND = Hypothesis((4,), -2.0, -2.0, (0,), (0.9,))
DECODERS = np.array([[-5.0, -1.0], [-1.0, -9.0]])


def test_score_is_the_weighted_sum_and_ranks() -> None:
    ranked = rescore([FIRST, SECOND], DECODERS, ctc_weight=0.5, reverse_weight=0.25)
    assert [hypothesis.ids for hypothesis in ranked] == [(4,), (3,)]
    expected = [0.5 * -2 + 0.75 * -1 + 0.25 * -9, 0.5 * -1 + 0.75 * -5 + 0.25 * -1]
    assert [hypothesis.score for hypothesis in ranked] == expected
    assert [hypothesis.ctc_score for hypothesis in ranked] == [-2.0, -1.0]


def test_scores_that_the_search_adds_keep_their_share_in_rescoring() -> None:
    added = FIRST._replace(context_score=3.0, lm_score=-1.0, length_score=-0.5)
    acoustic = rescore([added._replace(context_score=0.0, lm_score=0.0, length_score=0.0)], DECODERS[:1], 0.5, 0.25)[0]
    found = rescore([added], DECODERS[:1], 0.5, 0.25)[0]
    assert found.score == pytest.approx(acoustic.score + 1.5 * 1.5) and found.attention_score == -0.75 * 5 - 0.25
    assert found.search_score == -1.0 + 1.5


def test_weights_decide() -> None:
    assert rescore([FIRST, SECOND], DECODERS, ctc_weight=100.0, reverse_weight=0.0)[0].ids == (3,)
    assert rescore([FIRST, SECOND], DECODERS, ctc_weight=0.0, reverse_weight=1.0)[0].ids == (3,)


def test_reverse_column_is_not_read_without_weight() -> None:
    decoders = np.array([[-5.0, np.nan], [-1.0, np.nan]])
    assert all(np.isfinite(h.score) for h in rescore([FIRST, SECOND], decoders, 0.5, 0.0))


def test_ties_keep_their_order() -> None:
    tied = rescore([SECOND, SECOND._replace(ids=(5,))], np.zeros((2, 2)), 1.0, 0.5)
    assert [hypothesis.ids for hypothesis in tied] == [(4,), (5,)]


def test_decoder_scores_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(2,\), expected \(1, 2\)"):
        rescore([FIRST], np.zeros(2), 0.5, 0.0)


def test_words_are_joined_by_spaces_and_pieces_at_their_marks() -> None:
    assert Vocabulary([*RESERVED, "one", "two"], "words").text([3, 4, 4]) == "one two two"
    assert Vocabulary([*RESERVED, "▁he", "llo", "▁you"], "pieces").text([3, 4, 5]) == "hello you"
    assert Vocabulary([*RESERVED, "你", "好"], "pieces").text([3, 4]) == "你好"
    assert Vocabulary([*RESERVED, "one"], "words").text([1, 3, 2, 0]) == "<unk> one"
    assert Vocabulary([*RESERVED], "words").text([]) == ""


@pytest.mark.parametrize("join", JOINS)
def test_texts_of_consecutive_sequences_join(join: str) -> None:
    units = Vocabulary([*RESERVED, "a", "\u2581b", "\u2581", "\u4f60"], join)
    rng = np.random.default_rng(0)
    for _ in range(200):
        ids, cut = rng.integers(0, 7, 8).tolist(), rng.integers(0, 9)
        assert (units.spaced(ids[:cut]) + units.spaced(ids[cut:])).strip() == units.text(ids)


@pytest.mark.parametrize(
    "tokens, join, message",
    [
        (["a", "b"], "words", "tokens 0, 1, 2 must be"),
        ([*RESERVED, "a", "a"], "words", r"more than once: \['a'\]"),
        ([*RESERVED], "spaces", "unknown rule to join tokens 'spaces'; known: words, pieces"),
    ],
)
def test_wrong_vocabularies_are_refused(tokens: list[str], join: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Vocabulary(tokens, join)
