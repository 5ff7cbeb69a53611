"""Hot words that change during a search: the score of a text does not depend on the time of the change."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wenet_fusion_runtime.results.result import Hypothesis
from wenet_fusion_runtime.results.vocabulary import BLANK, RESERVED, Vocabulary
from wenet_fusion_runtime.search.frame_scores import FrameScores
from wenet_fusion_runtime.search.hot_words import HotWord
from wenet_fusion_runtime.search.prefix_beam import PrefixBeamSearch
from wenet_fusion_runtime.search.rescoring import RescoringSearch
from wenet_fusion_runtime.search.scorer_set import ScorerSet, make_scorers

VOCABULARY = Vocabulary([*RESERVED, "▁a", "b", "▁b", "a"], "pieces")
EMPTY = Hypothesis((), 0.0, 0.0, (), ())
EVERYTHING = 100_000  # a beam that keeps all hypotheses
LISTS = st.lists(
    st.builds(HotWord, st.sampled_from(["a", "ab", "a b", "aa", "ab a", "bb"]), st.sampled_from([-2.0, 0.7, 3.0])),
    max_size=3,
    unique_by=lambda word: word.phrase,
)


class Words:
    """A language model that counts how often it is asked."""

    name, words = "words", ("a", "ab")

    def __init__(self) -> None:
        self.asked = 0

    def start(self) -> int:
        return 0

    def advance(self, state: int, word: str) -> tuple[float, int]:
        self.asked += 1
        return -0.3 * len(word) - 0.1 * state, state + 1

    def finish(self, state: int) -> float:
        return -0.2 * state


def random_scores(seed: int, frames: int) -> FrameScores:
    logits = np.random.default_rng(seed).standard_normal((frames, len(VOCABULARY))) * 2.0
    logits[:, 1:3] = -30.0
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    ids = np.argsort(-log_probs, axis=1, kind="stable")[:, :5]
    best = np.take_along_axis(log_probs, ids, axis=1)
    return FrameScores(best.astype(np.float32), ids, log_probs[:, BLANK].astype(np.float32))


def final_scores(scorers: ScorerSet, ids: tuple[int, ...]) -> tuple[float, float]:
    state = scorers.start()
    for token in ids:
        state = scorers.advance(state, token)
    found = scorers.scored(EMPTY, state, is_final=True)
    return found.context_score, found.lm_score


def changed_search(
    scores: FrameScores, changes: list[tuple[int, list[HotWord]]], base: ScorerSet, **options: Any
) -> PrefixBeamSearch:
    """Run a search that begins with the base's scorers and gets other hot words before some frames."""
    search, frame = PrefixBeamSearch(scorers=base, **options), 0
    for at, words in sorted(changes, key=lambda change: change[0]):
        search.advance(scores.part(frame, at))
        search.set_scorers(base.with_hot_words(words))
        frame = at
    search.advance(scores.part(frame))
    return search


def ranked(search: PrefixBeamSearch, count: int = EVERYTHING) -> list[tuple[tuple[int, ...], float]]:
    return [(found.ids, round(found.score, 9)) for found in search.final_hypotheses(count)]


CHANGES = st.lists(st.tuples(st.integers(0, 5), LISTS), min_size=1, max_size=3)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), frames=st.integers(0, 5), changes=CHANGES, first=LISTS, has_model=st.booleans())
def test_the_result_is_that_of_a_search_with_the_last_words_from_the_start(
    seed: int, frames: int, changes: list, first: list[HotWord], has_model: bool
) -> None:
    scores, model = random_scores(seed, frames), Words() if has_model else None
    base = make_scorers(VOCABULARY, [], model, lm_weight=0.7, word_bonus=0.5)
    changes = [(0, first), *((min(at, frames), words) for at, words in changes)]
    found = changed_search(scores, changes, base, beam_size=EVERYTHING)
    last = max(enumerate(changes), key=lambda item: (item[1][0], item[0]))[1][1]
    expected = PrefixBeamSearch(EVERYTHING, scorers=base.with_hot_words(last))
    expected.advance(scores)
    assert dict(ranked(found)) == pytest.approx(dict(ranked(expected)), abs=1e-8)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), beam=st.integers(1, 6), changes=CHANGES, commit=st.none() | st.integers(0, 12))
def test_each_hypothesis_has_the_score_of_its_text(seed: int, beam: int, changes: list, commit: int | None) -> None:
    scores, base = random_scores(seed, 14), make_scorers(VOCABULARY, [], Words(), lm_weight=0.7)
    changes = [(2 * at, words) for at, words in changes]
    search = changed_search(scores, changes, base, beam_size=beam, token_threshold=4.0)
    if commit is not None:
        search.commit(commit)
    last = max(enumerate(changes), key=lambda item: (item[1][0], item[0]))[1][1]
    for found in search.final_hypotheses(beam):
        expected = final_scores(base.with_hot_words(last), found.ids)
        assert (found.context_score, found.lm_score) == pytest.approx(expected, abs=1e-9)
        assert found.score == pytest.approx(found.ctc_score + sum(expected), abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), beam=st.integers(1, 6), words=LISTS, times=st.lists(st.integers(0, 14), max_size=4))
def test_the_same_words_again_change_nothing(seed: int, beam: int, words: list[HotWord], times: list[int]) -> None:
    scores, base = random_scores(seed, 14), make_scorers(VOCABULARY, [], Words(), lm_weight=0.7)
    begun = base.with_hot_words(words)
    plain = PrefixBeamSearch(beam, scorers=begun)
    plain.advance(scores)
    again = changed_search(scores, [(0, words), *((at, words) for at in times)], base, beam_size=beam)
    assert again.final_hypotheses(beam) == plain.final_hypotheses(beam)  # bit for bit
    assert again.hypotheses(beam) == plain.hypotheses(beam)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), beam=st.integers(1, 6), first=LISTS, second=LISTS)
def test_words_taken_back_before_any_frame_leave_no_trace(
    seed: int, beam: int, first: list[HotWord], second: list[HotWord]
) -> None:
    scores, base = random_scores(seed, 10), make_scorers(VOCABULARY)
    search = changed_search(scores, [(0, first), (0, second)], base, beam_size=beam)
    expected = PrefixBeamSearch(beam, scorers=base.with_hot_words(second))
    expected.advance(scores)
    assert search.final_hypotheses(beam) == expected.final_hypotheses(beam)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), words=LISTS)
def test_the_best_hypothesis_comes_first_after_a_change(seed: int, words: list[HotWord]) -> None:
    search = changed_search(random_scores(seed, 8), [(8, words)], make_scorers(VOCABULARY), beam_size=6)
    scores = [found.score for found in search.hypotheses(6)]
    assert scores == sorted(scores, reverse=True)


def test_a_change_of_hot_words_asks_the_language_model_nothing() -> None:
    scores, model = random_scores(3, 12), Words()
    base = make_scorers(VOCABULARY, [], model, lm_weight=0.7)
    search = PrefixBeamSearch(4, scorers=base)
    search.advance(scores)
    asked = model.asked
    search.set_scorers(base.with_hot_words([HotWord("ab")]))
    assert model.asked == asked


def test_the_tree_keeps_only_the_hypotheses_of_the_beam() -> None:
    search = PrefixBeamSearch(3, scorers=make_scorers(VOCABULARY, [HotWord("ab")]))
    search.advance(random_scores(5, 40))
    search.set_scorers(make_scorers(VOCABULARY, [HotWord("a b")]))

    def size(node: Any) -> int:
        assert not node.tried
        return 1 + sum(map(size, node.children.values()))

    longest = max(len(found.ids) for found in search.hypotheses(3))
    assert size(search._beam[0].path()[0]) <= 1 + 3 * longest


def test_rescoring_passes_the_change_to_its_first_pass() -> None:
    scores = random_scores(7, 10)

    def no_opinion(blocks: list[np.ndarray], hypotheses: list[tuple[int, ...]]) -> np.ndarray:
        return np.zeros((len(hypotheses), 2))

    search = RescoringSearch(PrefixBeamSearch(4), no_opinion, 4, 1.0, 0.0)
    search.advance(scores, np.zeros((1, 10, 2), np.float32))
    search.set_scorers(make_scorers(VOCABULARY, [HotWord("ab", 9.0)]))
    for found in search.final_hypotheses(4):
        expected = final_scores(make_scorers(VOCABULARY, [HotWord("ab", 9.0)]), found.ids)[0]
        assert found.context_score == pytest.approx(expected)
