"""Segments close when their sentence is complete: the same for any cut, and earlier for a more probable end."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.runtime.fake_model import LoudnessModel, make_model, speak
from wenet_fusion_runtime import AcousticModel, DecodingOptions, Endpoint, EndpointRules, Recognizer
from wenet_fusion_runtime.results.result import Hypothesis
from wenet_fusion_runtime.results.vocabulary import RESERVED, Vocabulary
from wenet_fusion_runtime.search.modes import GREEDY, PREFIX_BEAM, RESCORING
from wenet_fusion_runtime.search.scorer_set import make_scorers
from wenet_fusion_runtime.stream.endpoints import FrameRules, SegmentCounts
from wenet_fusion_runtime.stream.offline import offline_step
from wenet_fusion_runtime.stream.segment_decoder import SegmentDecoder

FRAME = 0.04
A = 3
RULES = EndpointRules(None, 1.2, complete_probability=0.5, complete_seconds=0.16, complete_pause_seconds=0.1)


class Ends:
    """A language model with the words after which a sentence may end."""

    name, words = "ends", ("a", "b", "c", "d")

    def __init__(self, **ends: float) -> None:
        self.ends = ends

    def start(self) -> str:
        return ""

    def advance(self, state: str, word: str) -> tuple[float, str]:
        return -1.0, word

    def finish(self, state: str) -> float:
        return math.log(self.ends.get(state, 1e-6))


def closings(tokens: list[int], cuts: list[int], rules: EndpointRules, probability: float) -> list[tuple[int, str]]:
    counts, found, scanner = SegmentCounts(), [], FrameRules(rules, FRAME)
    bounds = [0, *sorted(min(cut, len(tokens)) for cut in cuts), len(tokens)]
    for start, stop in itertools.pairwise(bounds):
        while start < stop:
            piece = np.array(tokens[start:stop], dtype=int)
            counts, count, endpoint = scanner.scan(counts, piece, np.zeros(len(piece)))
            if counts.asks:
                counts, endpoint = scanner.answer(counts, probability)
            start += count
            if endpoint is not None:
                found.append((start, endpoint.value))
                counts = SegmentCounts(previous=counts.previous)
    return found


@settings(max_examples=60, deadline=None)
@given(
    runs=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 40)), max_size=6),
    cuts=st.lists(st.integers(0, 200), max_size=6),
    probability=st.sampled_from([0.0, 1e-4, 0.01, 0.2, 0.5, 0.9, 1.0]),
)
def test_a_segment_closes_after_the_silence_that_its_probability_asks_for(
    runs: list[tuple[int, int]], cuts: list[int], probability: float
) -> None:
    tokens = [token for speech, silence in runs for token in [A] * speech + [0] * silence]
    found = closings(tokens, cuts, RULES, probability)
    assert found == closings(tokens, [], RULES, probability)
    odds = math.log(max(probability, 1e-12) / max(1 - probability, 1e-12))
    needed = max(4, math.ceil((math.log(0.5 / 0.5) - odds) * 0.1 / FRAME))
    expected, position = [], 0
    for speech, silence in runs:
        first = min(needed, 30)
        if silence >= first:  # afterwards the segment has no text, and nothing closes it
            expected.append((position + speech + first, "complete" if needed <= 30 else "rule2"))
        position += speech + silence
    assert found == expected


def test_the_odds_grow_with_silence() -> None:
    rules = FrameRules(RULES, FRAME)
    silences = [rules.answer(SegmentCounts(9, 4, True, 0, True), p)[0].needed for p in (0.9, 0.5, 0.1, 0.01, 1e-4)]
    assert (
        silences == sorted(silences) and silences[0] == silences[1] == 4 and silences[2] == math.ceil(2.5 * math.log(9))
    )


def test_the_probability_is_the_mean_over_the_hypotheses() -> None:
    vocabulary = Vocabulary([*RESERVED, "a", "b"], "words")
    scorers = make_scorers(vocabulary, (), Ends(a=0.5, b=0.1), lm_weight=0.0)
    found = [Hypothesis((3,), 0.0, math.log(0.6), (), ()), Hypothesis((3, 4), 0.0, math.log(0.2), (), ())]
    assert scorers.end_probability(found) == pytest.approx((0.6 * 0.5 + 0.2 * 0.1) / 0.8)
    assert make_scorers(vocabulary).end_probability(found) == 0.0


MODEL = make_model(LoudnessModel(sharpness=20.0))
SURE = make_model()


def decode(text: str, cuts: list[int], mode: str, model: AcousticModel = MODEL) -> list[tuple]:
    options = DecodingOptions(
        mode, language_model=Ends(b=0.8, d=0.3), lm_weight=0.1, endpoint=RULES, commit_seconds=0.4
    )
    scores, encoder_out = offline_step(model, [speak(text, gap=3)], 8, 2).row(0)
    decoder, results = SegmentDecoder(model, options), []
    bounds = [0, *sorted(min(cut, scores.frames) for cut in cuts), scores.frames]
    for start, stop in itertools.pairwise(bounds):
        results += decoder.accept(scores.part(start, stop), encoder_out[:, start:stop])
    return [(r.text, r.end_seconds, r.endpoint, r.hypotheses[0].score) for r in [*results, decoder.finish()]]


@settings(max_examples=25, deadline=None)
@given(
    text=st.text("abcd  ", max_size=8),
    cuts=st.lists(st.integers(0, 80), max_size=8),
    mode=st.sampled_from([GREEDY, PREFIX_BEAM, RESCORING]),
)
def test_results_do_not_depend_on_how_frames_arrive(text: str, cuts: list[int], mode: str) -> None:
    assert decode(text, cuts, mode) == decode(text, [], mode)


@pytest.mark.parametrize("mode", [GREEDY, PREFIX_BEAM])
def test_complete_sentences_close_sooner(mode: str) -> None:
    found = decode("ab  a  ad  ", [], mode, SURE)
    assert [(text, endpoint) for text, _, endpoint, _ in found[:2]] == [
        ("a b", Endpoint.COMPLETE),
        ("a a d", Endpoint.COMPLETE),  # after "a" the sentence goes on
    ]


def test_after_a_word_that_ends_no_sentence_rule_2_decides() -> None:
    found = decode("a" + 20 * " " + "b", [], GREEDY, SURE)
    assert [(text, endpoint) for text, _, endpoint, _ in found[:2]] == [
        ("a", Endpoint.RULE2),
        ("b", Endpoint.COMPLETE),
    ]


def test_the_rule_needs_a_language_model() -> None:
    with pytest.raises(ValueError, match="complete_probability needs a language model"):
        Recognizer(MODEL, DecodingOptions(PREFIX_BEAM, endpoint=RULES))
    plain = Recognizer(MODEL, DecodingOptions(PREFIX_BEAM))
    with pytest.raises(ValueError, match="complete_probability needs a language model"):
        plain.create_stream(endpoint=RULES)
    Recognizer(MODEL, DecodingOptions(GREEDY, language_model=Ends(), endpoint=RULES)).create_stream()
    with pytest.raises(ValueError, match="keeps a single hypothesis"):
        Recognizer(MODEL, DecodingOptions(GREEDY, language_model=Ends()))


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"complete_probability": 0.0}, "complete_probability must lie between 0 and 1, or be None for never, found 0"),
        ({"complete_probability": math.nan}, "complete_probability must be a number of at most"),
        ({"complete_seconds": 0.0}, "complete_seconds must be positive, found 0"),
        ({"complete_pause_seconds": -1.0}, "complete_pause_seconds must be positive, found -1"),
    ],
)
def test_wrong_values_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EndpointRules(**wrong)
