"""Prefix beam search with hot words, a language model and penalties, compared with enumeration of all alignments."""

import math
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.runtime.fake_model import LoudnessModel, make_model, speak
from test_hot_words import EMPTY, final_score
from test_searches import enumerate_prefixes, pieces, plain_prefix_beam, random_scores
from wenet_fusion_runtime.results.result import Hypothesis
from wenet_fusion_runtime.results.vocabulary import RESERVED, Vocabulary
from wenet_fusion_runtime.search.contextual_biasing import HotWordGraph
from wenet_fusion_runtime.search.frame_scores import FrameScores
from wenet_fusion_runtime.search.hot_words import HotWord
from wenet_fusion_runtime.search.language_models.language_model_scorer import LanguageModelScorer
from wenet_fusion_runtime.search.modes import GREEDY, MODES, PREFIX_BEAM, RESCORING
from wenet_fusion_runtime.search.prefix_beam import PrefixBeamSearch
from wenet_fusion_runtime.search.scorer_set import ScorerSet, make_scorers
from wenet_fusion_runtime.stream.decoding_options import DecodingOptions
from wenet_fusion_runtime.stream.offline import transcribe_offline
from wenet_fusion_runtime.stream.recognizer import Recognizer
from wenet_fusion_runtime.stream.segment_decoder import SegmentDecoder

PIECES = Vocabulary([*RESERVED, "▁a", "b", "▁"], "pieces")
CHARACTERS = Vocabulary([*RESERVED, "你", "好", "吗"], "pieces")
WORDS = Vocabulary([*RESERVED, "one", "two", "six"], "words")
VOCABULARIES = {"pieces": PIECES, "characters": CHARACTERS, "words": WORDS}
HOT_WORDS = {
    "pieces": [HotWord("a b", 1.0), HotWord("ab", 0.7), HotWord("b", -0.4)],
    "characters": [HotWord("你好", 0.8), HotWord("好吗", 1.0), HotWord("吗吗", -1.0)],
    "words": [HotWord("one two", 1.0), HotWord("two", -0.5), HotWord("six six one", 2.0)],
}


class Bigrams:
    """A toy language model that counts its calls; a word's probability follows from its letters and the word before."""

    name, words = "toy", ()

    def __init__(self) -> None:
        self.asked: Counter[tuple[Any, str]] = Counter()

    def start(self) -> tuple[str, ...]:
        return ()

    def advance(self, state: tuple[str, ...], word: str) -> tuple[float, tuple[str, ...]]:
        assert word and " " not in word and "▁" not in word
        self.asked[state, word] += 1
        return self.log_prob(state[-1:], word), (*state, word)

    def finish(self, state: tuple[str, ...]) -> float:
        return self.log_prob(state[-1:], "</s>")

    def log_prob(self, before: tuple[str, ...], word: str) -> float:
        return -0.1 - (sum(map(ord, word)) * 7 + sum(map(ord, "".join(before))) * 3) % 50 / 10


def unit_ids(scores: FrameScores) -> FrameScores:
    """Replace the ids 1, 2, ... of random scores by 3, 4, ..., the tokens with text; blank stays 0."""
    return scores._replace(ids=np.where(scores.ids > 0, scores.ids + 2, 0))


def expected_scores(scores: FrameScores, kind: str, weight: float, word_bonus: float, penalty: float) -> dict:
    """Return the score of each token sequence, from the sum over alignments, the words of the text and plain sums."""
    units, model, found = VOCABULARIES[kind], Bigrams(), {}
    hot_words = make_scorers(units, HOT_WORDS[kind])  # test_hot_words.py compares them with counts
    for ids, (ctc_score, _) in enumerate_prefixes(scores).items():
        text = units.text(ids)
        words = list(text) if kind == "characters" else text.split()
        log_probs = [model.log_prob(tuple(words[max(0, i - 1) : i]), word) for i, word in enumerate([*words, "</s>"])]
        found[ids] = (
            ctc_score
            + final_score(hot_words, ids)
            + weight * sum(log_probs)
            + word_bonus * len(words)
            - penalty * len(ids)
        )
    return found


def agrees_with_enumeration(seed: int, kind: str, weight: float, word_bonus: float, penalty: float) -> bool:
    scores = unit_ids(random_scores(seed, 5, 4))
    expected = expected_scores(scores, kind, weight, word_bonus, penalty)
    scorers = make_scorers(VOCABULARIES[kind], HOT_WORDS[kind], Bigrams(), weight, word_bonus, penalty)
    search = PrefixBeamSearch(10_000, scorers=scorers)
    search.advance(scores)
    found = search.final_hypotheses(10_000)
    assert all(math.isclose(each.score, each.search_score, abs_tol=1e-9) for each in found)
    ranks = [hypothesis.score for hypothesis in found]
    return (
        ranks == sorted(ranks, reverse=True)
        and {hypothesis.ids for hypothesis in found} == expected.keys()
        and all(math.isclose(each.score, expected[each.ids], abs_tol=1e-9) for each in found)
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(sorted(VOCABULARIES)),
    weight=st.sampled_from([0.0, 0.5, 2.0]),
    word_bonus=st.sampled_from([-1.0, 0.0, 1.5]),
    penalty=st.sampled_from([-0.5, 0.0, 0.5]),
)
def test_scores_are_sums_over_alignments_words_and_phrases(
    seed: int, kind: str, weight: float, word_bonus: float, penalty: float
) -> None:
    assert agrees_with_enumeration(seed, kind, weight, word_bonus, penalty)


@pytest.mark.parametrize("kind", VOCABULARIES)
def test_enumeration_catches_a_last_word_that_is_not_scored(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert agrees_with_enumeration(1, kind, 0.5, 0.0, 0.0)
    monkeypatch.setattr(LanguageModelScorer, "finish", lambda self, state: state.score)
    assert not agrees_with_enumeration(1, kind, 0.5, 0.0, 0.0)


def bonus_from_the_beginning(scorers: ScorerSet, prefix: tuple[int, ...]) -> float:
    state = scorers.start()
    for unit in prefix:
        state = scorers.advance(state, unit)
    return state[0]


@pytest.mark.parametrize("kind", VOCABULARIES)
@pytest.mark.parametrize("beam_size", [1, 4, 7])
def test_a_narrow_beam_equals_the_textbook(kind: str, beam_size: int) -> None:
    """Extensions that the search skips because they cannot reach the beam would indeed not reach it."""
    for seed in range(4):
        scores = unit_ids(random_scores(seed, 25, 4, sharpness=1.5))
        scorers = make_scorers(VOCABULARIES[kind], HOT_WORDS[kind], Bigrams(), 0.5, 0.7, -0.2)
        search = PrefixBeamSearch(beam_size, scorers=scorers)
        search.advance(scores)
        expected = plain_prefix_beam(scores, beam_size, partial(bonus_from_the_beginning, scorers))
        found = search.hypotheses(beam_size)
        assert [each.ids for each in found] == [ids for ids, _ in expected]
        np.testing.assert_allclose([each.score for each in found], [score for _, score in expected], rtol=1e-9)


def test_the_textbook_catches_a_bound_that_is_too_low(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HotWordGraph, "_largest_gains", lambda self, levels: np.full(6, -9.0))
    with pytest.raises(AssertionError):
        test_a_narrow_beam_equals_the_textbook("words", 4)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 100),
    kind=st.sampled_from(sorted(VOCABULARIES)),
    cuts=st.lists(st.integers(0, 40), max_size=12),
    threshold=st.sampled_from([2.0, 5.0, math.inf]),
)
def test_any_cut_of_the_frames_gives_the_same_hypotheses_bit_for_bit(
    seed: int, kind: str, cuts: list[int], threshold: float
) -> None:
    scores = unit_ids(random_scores(seed, 40, 4, sharpness=3.0))
    scorers = make_scorers(VOCABULARIES[kind], HOT_WORDS[kind], Bigrams(), 0.5, 0.1, 0.2)
    whole, cut = (PrefixBeamSearch(4, 0, 0, scorers, threshold, 0.8) for _ in range(2))
    whole.advance(scores)
    for piece in pieces(scores, cuts):
        cut.advance(piece)
        cut.hypotheses(1)
        cut.final_hypotheses(4)  # reading the hypotheses changes nothing
    assert cut.final_hypotheses(4) == whole.final_hypotheses(4)
    assert cut.hypotheses(4) == whole.hypotheses(4)


def test_tokens_that_a_hot_word_may_raise_are_not_pruned() -> None:
    scores = FrameScores(np.float32([[-0.1, -2.5, -13.0, -13.0]]), np.array([[3, 0, 4, 5]]), np.float32([-2.5]))
    found = {}
    for boost in (0.0, 5.0, 14.0):
        search = PrefixBeamSearch(scorers=make_scorers(WORDS, [HotWord("two", boost)]), token_threshold=10.0)
        search.advance(scores)
        found[boost] = [WORDS.text(hypothesis.ids) for hypothesis in search.final_hypotheses(4)]
    assert found == {0.0: ["one", ""], 5.0: ["one", "", "two"], 14.0: ["two", "one", ""]}


@pytest.mark.parametrize("kind", ["characters", "words"])
def test_the_language_model_scores_each_word_of_each_prefix_once(kind: str) -> None:
    """The toy's states are whole texts, so a repeated pair means that one prefix asked twice."""
    model = Bigrams()
    search = PrefixBeamSearch(10_000, scorers=make_scorers(VOCABULARIES[kind], (), model, 0.5))
    search.advance(unit_ids(random_scores(3, 6, 4)))
    search.final_hypotheses(10)
    assert set(model.asked.values()) == {1}


def test_a_word_is_scored_when_it_is_complete() -> None:
    model = Bigrams()
    for kind, tokens, words in (
        ("words", ["one", "<unk>", "two"], ["one", "<unk>", "two"]),
        ("characters", ["你", "<unk>", "好"], ["你", "<unk>", "好"]),
        ("pieces", ["▁a", "b", "<unk>", "b", "▁", "▁a", "▁a"], ["ab<unk>b", "a"]),
    ):
        units, model = VOCABULARIES[kind], Bigrams()
        scorers = make_scorers(units, (), model, 1.0)
        state = scorers.start()
        for token in tokens:
            state = scorers.advance(state, units.tokens.index(token))
        assert [word for _, word in model.asked] == words
        score = scorers.scored(EMPTY, state, is_final=True).lm_score
        last = "a" if kind == "pieces" else None
        whole = [*words, last] if last else words
        assert [word for _, word in model.asked] == whole
        expected = sum(model.log_prob(tuple(whole[max(0, i - 1) : i]), word) for i, word in enumerate([*whole, "</s>"]))
        assert score == pytest.approx(expected)


def test_characters_of_unspaced_scripts_are_words_among_pieces() -> None:
    units, model = Vocabulary([*RESERVED, "▁he", "llo", "你好", "▁吗"], "pieces"), Bigrams()
    scorers = make_scorers(units, (), model, 1.0)
    state = scorers.start()
    for unit in (3, 4, 5, 6, 4, 3):
        state = scorers.advance(state, unit)
    scorers.scored(EMPTY, state, is_final=True)
    assert [word for _, word in model.asked] == ["hello", "你", "好", "吗", "llo", "he"]


UNSURE = make_model(LoudnessModel(sharpness=8.0))  # uncertain between the words a, b, c and d
SPEECH = speak("a c")


def hypotheses(options: DecodingOptions) -> tuple[Hypothesis, ...]:
    return transcribe_offline(UNSURE, SPEECH, 8, 2, options)[0].hypotheses


def test_hot_words_win_and_stay_through_rescoring() -> None:
    plain, hot = DecodingOptions(PREFIX_BEAM), (HotWord("b c", 2.0), HotWord("d", -5.0))
    assert "b c" not in transcribe_offline(UNSURE, SPEECH, 8, 2, plain)[0].text
    assert "b c" in transcribe_offline(UNSURE, SPEECH, 8, 2, replace(plain, hot_words=hot))[0].text
    rescored = hypotheses(DecodingOptions(RESCORING, hot_words=hot, ctc_weight=0.5))
    assert any(each.context_score >= 4.0 for each in rescored)
    for each in rescored:
        text = UNSURE.meta.vocabulary.text(each.ids)
        assert each.context_score == 4.0 * text.count("b c") - 5.0 * text.count("d")
        assert each.attention_score == pytest.approx(5 * text.count("b") - len(each.ids))
        assert each.score == pytest.approx(0.5 * each.ctc_score + each.attention_score + 1.5 * each.context_score)


def test_hot_words_of_a_stream_are_added_to_those_of_the_options() -> None:
    words = HotWord("b", 3.0), HotWord("d c", 4.0)
    both = Recognizer(UNSURE, DecodingOptions(PREFIX_BEAM, hot_words=words))
    one = Recognizer(UNSURE, DecodingOptions(PREFIX_BEAM, hot_words=words[:1]))
    streams = [both.create_stream(), one.create_stream(hot_words=words[1:]), one.create_stream()]
    finals = []
    for stream in streams:
        stream.accept_waveform(SPEECH)
        finals.append(stream.finish()[-1].hypotheses)
    assert finals[0] == finals[1] != finals[2]
    with pytest.raises(ValueError, match="1 hot word cannot be used:\nhot word 'e': no token is 'e'"):
        one.create_stream(hot_words=[HotWord("e")])
    with pytest.raises(ValueError, match="1 hot word cannot be used:\nhot word 'e': no token is 'e'"):
        Recognizer(UNSURE, DecodingOptions(hot_words=[HotWord("e")]))
    with pytest.raises(ValueError, match="ctc_greedy_search keeps a single hypothesis"):
        Recognizer(UNSURE, DecodingOptions(GREEDY)).create_stream(hot_words=words)


def test_a_language_model_of_the_options_scores_words() -> None:
    class LikesD(Bigrams):
        def log_prob(self, before: tuple[str, ...], word: str) -> float:
            return -0.1 if word == "d" else -9.0

    found = hypotheses(DecodingOptions(PREFIX_BEAM, language_model=LikesD(), lm_weight=2.0, word_bonus=0.25))
    assert set(found[0].ids) == {6}
    count = len(found[0].ids)
    assert found[0].lm_score == pytest.approx(2.0 * (-0.1 * count - 9.0) + 0.25 * count)
    assert found[0].score == pytest.approx(found[0].ctc_score + found[0].lm_score)


def test_penalties_make_texts_longer_and_shorter() -> None:
    lengths = {
        penalty: len(hypotheses(DecodingOptions(PREFIX_BEAM, length_penalty=penalty))[0].ids)
        for penalty in (-4.0, 0.0, 4.0)
    }
    assert lengths[-4.0] > lengths[0.0] > lengths[4.0]
    for mode in MODES:
        plain, more = (hypotheses(DecodingOptions(mode, blank_penalty=penalty)) for penalty in (0.0, 6.0))
        assert len(more[0].ids) > len(plain[0].ids)


def test_a_search_without_scorers_skips_scoring() -> None:
    assert SegmentDecoder(UNSURE, DecodingOptions(PREFIX_BEAM))._search._is_scored is False
    assert SegmentDecoder(UNSURE, DecodingOptions(PREFIX_BEAM, length_penalty=1.0))._search._is_scored is True


def test_only_nbest_hypotheses_are_returned() -> None:
    for mode in (PREFIX_BEAM, RESCORING):
        every, best = (hypotheses(DecodingOptions(mode, nbest=count)) for count in (None, 3))
        assert len(every) == 7 and best == every[:3]
