"""Segments with doubtful text are rejected, the same in every cut, mode and batch."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.runtime.fake_model import FRAME, LoudnessModel, make_model, speak
from wenet_fusion_runtime import DecodingOptions, EndpointRules, HotWord, Recognizer, Result, transcribe_offline
from wenet_fusion_runtime.search.confidence_filter import ConfidenceFilter
from wenet_fusion_runtime.search.frame_scores import FrameScores
from wenet_fusion_runtime.search.greedy import GreedySearch
from wenet_fusion_runtime.search.modes import GREEDY, PREFIX_BEAM, RESCORING

UNSURE = make_model(LoudnessModel(sharpness=8.0))  # confidences differ from token to token
SEGMENTS = EndpointRules(rule2_seconds=0.12)


def confidence(result: Result) -> float:
    return sum(token.confidence for token in result.tokens) / (len(result.tokens) + 1)


def shown(results: list[Result]) -> list[tuple]:
    return [(r.text, r.start_seconds, r.end_seconds, [(h.ids, h.score) for h in r.hypotheses]) for r in results]


@settings(max_examples=60, deadline=None)
@given(
    text=st.text("abcd  ", min_size=1, max_size=8),
    mode=st.sampled_from([GREEDY, PREFIX_BEAM, RESCORING]),
    threshold=st.floats(0.05, 1.0),
    cuts=st.lists(st.integers(1, 20 * FRAME), max_size=4),
)
def test_segments_below_the_threshold_have_no_text(text: str, mode: str, threshold: float, cuts: list[int]) -> None:
    samples = speak(text)
    options = DecodingOptions(mode, endpoint=SEGMENTS, commit_seconds=0.2, confidence_threshold=threshold)
    plain = transcribe_offline(UNSURE, samples, 4, 4, DecodingOptions(mode, endpoint=SEGMENTS))  # commits change texts
    expected = transcribe_offline(UNSURE, samples, 4, 4, options)
    stream, found = Recognizer(UNSURE, options).create_stream(4, 4), []
    for piece in np.split(samples, sorted({cut for cut in cuts if cut < len(samples)})):
        found += stream.accept_waveform(piece)
        assert stream.result.committed == 0  # the text may still be rejected
    found += stream.finish()
    assert shown(found) == shown(expected) and len(found) == len(plain)
    for before, after in zip(plain, found):
        is_kept = not before.tokens or confidence(before) >= threshold
        assert after.text == (before.text if is_kept else "") and after.committed == len(after.words)
        assert is_kept or (len(after.hypotheses) == 1 and after.hypotheses[0].score <= 0)
    assert stream.text == " ".join(filter(None, (result.text for result in found)))


def test_an_open_segment_shows_doubtful_text_and_takes_new_hot_words() -> None:
    for mode, hot_words in ((GREEDY, []), (PREFIX_BEAM, [HotWord("b", 2.0)])):
        options = DecodingOptions(mode, confidence_threshold=1.0)
        stream = Recognizer(UNSURE, options).create_stream(4, 4)
        stream.accept_waveform(speak("ab"))
        stream.set_hot_words(hot_words)
        assert stream.text != "" and stream.result.words[0].confidence < 1
        (last,) = stream.finish()
        assert stream.text == last.text == "" and last.tokens == ()


def test_the_empty_text_has_the_probability_of_silence() -> None:
    scores = FrameScores(np.log([[0.6, 0.4], [0.7, 0.3]]), np.array([[3, 0], [0, 4]]), np.log([0.4, 0.7]))
    search = ConfidenceFilter(GreedySearch(), 1.0)
    search.advance(scores, np.zeros((1, 2, 4), np.float32))
    (only,) = search.final_hypotheses(5)
    assert only.ids == () and only.score == only.ctc_score == pytest.approx(math.log(0.4 * 0.7))


@pytest.mark.parametrize("threshold", [-0.1, 1.1, math.nan])
def test_thresholds_that_are_no_probability_are_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="confidence_threshold must be 0 to 1, found"):
        DecodingOptions(confidence_threshold=threshold)
