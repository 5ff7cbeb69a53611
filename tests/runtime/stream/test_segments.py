"""Segments and modes: frames to results, however the frames arrive."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.runtime.fake_model import FRAME, LoudnessModel, make_model, speak
from wenet_fusion_runtime import AcousticModel
from wenet_fusion_runtime.results.result import Result, joined_ids
from wenet_fusion_runtime.search.frame_scores import FrameScores
from wenet_fusion_runtime.search.hot_words import HotWord
from wenet_fusion_runtime.search.modes import GREEDY, MODES, PREFIX_BEAM, RESCORING
from wenet_fusion_runtime.stream import offline
from wenet_fusion_runtime.stream.decoding_options import FILE_OPTIONS, LIVE_OPTIONS, DecodingOptions
from wenet_fusion_runtime.stream.endpoints import LIVE_ENDPOINTS, EndpointRules
from wenet_fusion_runtime.stream.offline import decode_rows, offline_step, transcribe_offline
from wenet_fusion_runtime.stream.segment_decoder import SegmentDecoder

# Frames are 40 ms: a segment of 10 frames closes at 3 blanks, or after 5 more frames.
SHORT = DecodingOptions(PREFIX_BEAM, endpoint=EndpointRules(None, None, 0.4, 0.12, 0.2))


MODEL = make_model()


def text_of(results: list[Result]) -> str:
    return MODEL.meta.vocabulary.text(joined_ids(results))


def frames_of(text: str, **shape: int) -> tuple[FrameScores, np.ndarray]:
    return offline_step(MODEL, [speak(text, **shape)], 8, 2).row(0)


def decode(
    scores: FrameScores,
    encoder_out: np.ndarray,
    cuts: list[int],
    options: DecodingOptions = SHORT,
    decoder_type: type[SegmentDecoder] = SegmentDecoder,
) -> list[Result]:
    decoder, results = decoder_type(MODEL, options), []
    bounds = [0, *sorted(cuts), len(scores.blank)]
    for start, stop in itertools.pairwise(bounds):
        results += decoder.accept(scores.part(start, stop), encoder_out[:, start:stop])
        decoder.partial()
    return [*results, decoder.finish()]


@settings(max_examples=40, deadline=None)
@given(text=st.text("abcd ", max_size=12), cuts=st.lists(st.integers(0, 70), max_size=15), mode=st.sampled_from(MODES))
def test_results_do_not_depend_on_how_frames_arrive(text: str, cuts: list[int], mode: str) -> None:
    scores, encoder_out = frames_of(text)
    cuts = [min(cut, len(scores.blank)) for cut in cuts]
    options = replace(SHORT, mode=mode)
    assert decode(scores, encoder_out, cuts, options) == decode(scores, encoder_out, [], options)


class ClosesAfterBlocks(SegmentDecoder):
    """Seeded bug: a segment closes at the end of the block only."""

    def accept(self, scores: FrameScores, encoder_out: np.ndarray) -> list[Result]:
        counts, _, endpoint = self._rules.scan(self._counts, scores.ids[:, 0], scores.blank)
        self._search.advance(scores, encoder_out)
        self._counts = counts._replace(frames=self._counts.frames + len(scores.blank))
        return [self.close(endpoint)] if endpoint is not None else []


def test_the_law_catches_segments_that_close_at_block_ends() -> None:
    scores, encoder_out = frames_of("abcabcabc")
    whole = decode(scores, encoder_out, [], SHORT, ClosesAfterBlocks)
    assert decode(scores, encoder_out, [16, 32], SHORT, ClosesAfterBlocks) != whole


def test_segments_follow_each_other_without_losing_a_frame_or_a_token() -> None:
    scores, encoder_out = frames_of("abcd  cba  dd")
    results = decode(scores, encoder_out, [7, 30])
    assert len(results) > 2 and all(result.is_final for result in results)
    assert [result.segment for result in results] == list(range(len(results)))
    assert results[0].start_seconds == 0 and results[-1].end_seconds == pytest.approx(len(scores.blank) * 0.04)
    for before, after in itertools.pairwise(results):
        assert before.end_seconds == after.start_seconds
    assert text_of(results) == "a b c d c b a d d"
    whole = decode(scores, encoder_out, [], DecodingOptions(PREFIX_BEAM))
    assert len(whole) == 1 and joined_ids(results) == joined_ids(whole)
    for result in results:
        assert all(result.start_seconds <= token.start_seconds < result.end_seconds for token in result.tokens)
    times = [token.start_seconds for result in results for token in result.tokens]
    assert times == [token.start_seconds for token in whole[0].tokens]


def test_silence_gives_empty_segments() -> None:
    results = decode(*frames_of("      "), [])
    assert len(results) > 2 and text_of(results) == "" and all(result.tokens == () for result in results)


@pytest.mark.parametrize("mode", MODES)
def test_a_token_cut_by_the_last_limit_is_not_recognised_twice(mode: str) -> None:
    scores, encoder_out = frames_of("a", frames=40)  # nothing but one long token: segments close within it
    results = decode(scores, encoder_out, [], replace(SHORT, mode=mode))
    assert len(results) > 2
    assert text_of(results) == "a"


class DropsTheLastToken(AcousticModel):
    """A model whose decoders prefer the empty text in their first call."""

    def rescore(self, encoder_blocks: list[np.ndarray], hypotheses: list[tuple[int, ...]]) -> np.ndarray:
        first, self.called = not hasattr(self, "called"), True
        return np.array([[-1000.0 * len(ids) if first else 0.0] * 2 for ids in hypotheses])


def test_a_token_cut_by_the_last_limit_is_not_lost_when_rescoring_drops_it() -> None:
    speech = np.array([0.1] * 8 + [0.6] * 7 + [0.9] * 3 + [0.1] * 4, dtype=np.float32)  # of the token a; else blank
    ids = np.where(speech[:, None] > 0.5, [[3, 0]], [[0, 3]])
    scores = FrameScores(np.log(np.sort(np.stack([speech, 1 - speech], axis=1))[:, ::-1]), ids, np.log(1 - speech))
    decoder = SegmentDecoder(DropsTheLastToken(MODEL.backend, MODEL.meta), replace(SHORT, mode=RESCORING))
    results = [*decoder.accept(scores, np.zeros((1, len(speech), 2))), decoder.finish()]
    assert [(result.text, result.end_seconds) for result in results] == [("", 15 * 0.04), ("a", 22 * 0.04)]


def test_a_finished_decoder_begins_another_segment() -> None:
    decoder = SegmentDecoder(MODEL, DecodingOptions(GREEDY))
    decoder.accept(*frames_of("ab"))
    assert (decoder.finish().text, decoder.finish().text) == ("a b", "")
    assert decoder.partial().segment == 2


def test_only_the_open_segment_is_kept() -> None:
    decoder = SegmentDecoder(MODEL, replace(SHORT, mode=RESCORING))
    scores, encoder_out = frames_of("abcd " * 12)
    for start in range(0, len(scores.blank), 8):
        decoder.accept(scores.part(start, start + 8), encoder_out[:, start : start + 8])
        assert sum(block.shape[1] for block in decoder._search._encoder_blocks) == decoder._counts.frames <= 15
    without = SegmentDecoder(MODEL, SHORT)
    without.accept(scores, encoder_out)
    assert not hasattr(without._search, "_encoder_blocks")


def test_rescoring_ranks_by_the_decoders() -> None:
    model = make_model(LoudnessModel(sharpness=8.0))  # uncertain: the beam holds several texts
    samples = speak("a a")
    plain = transcribe_offline(model, samples, 8, 2, DecodingOptions(PREFIX_BEAM))[0]
    rescored = transcribe_offline(model, samples, 8, 2, DecodingOptions(RESCORING, ctc_weight=0.5))[0]
    assert {h.ids for h in rescored.hypotheses} == {h.ids for h in plain.hypotheses} and len(plain.hypotheses) == 7
    for hypothesis in rescored.hypotheses:
        expected = 0.5 * hypothesis.ctc_score + 5 * hypothesis.ids.count(4) - len(hypothesis.ids)
        assert hypothesis.score == pytest.approx(expected)
    assert list(rescored.hypotheses) == sorted(rescored.hypotheses, key=lambda h: -h.score)
    assert rescored.text != plain.text
    only_reverse = DecodingOptions(RESCORING, ctc_weight=0.0, reverse_weight=1.0)
    reverse = transcribe_offline(model, samples, 8, 2, only_reverse)[0]
    assert len(reverse.tokens) == max(len(h.ids) for h in plain.hypotheses)


def test_greedy_and_beam_agree_on_a_sure_model() -> None:
    step = offline_step(MODEL, [speak("abcd"), speak("dcba cb")], 4, 4)
    for mode in MODES:
        rows = decode_rows(MODEL, step, DecodingOptions(mode))
        assert [text_of(row) for row in rows] == ["a b c d", "d c b a c b"]


def test_rows_of_a_batch_do_not_see_each_other() -> None:
    utterances = [speak("abcd"), speak("d"), speak(""), speak("cab cab")]
    for mode in MODES:
        rows = decode_rows(MODEL, offline_step(MODEL, utterances, 8, 2), DecodingOptions(mode))
        for row, samples in zip(rows, utterances):
            alone = transcribe_offline(MODEL, samples, 8, 2, DecodingOptions(mode))
            assert joined_ids(row) == joined_ids(alone)
            np.testing.assert_allclose(
                [h.score for h in row[0].hypotheses], [h.score for h in alone[0].hypotheses], rtol=1e-4
            )


class CountsFrames(AcousticModel):
    longest = 0

    def step(self, samples: np.ndarray, *arguments: object) -> tuple[object, object]:
        self.longest = max(self.longest, samples.shape[1] // FRAME)
        return super().step(samples, *arguments)


@pytest.mark.parametrize("chunk, left, longest", [(4, 4, 20), (8, 2, 16), (1 << 30, 0, 47)])
def test_long_audio_runs_in_blocks(monkeypatch: pytest.MonkeyPatch, chunk: int, left: int, longest: int) -> None:
    utterances = [speak("abcd dcb"), speak(""), speak("abc"), speak("c")[: 5 * FRAME - 7]]
    whole = offline_step(MODEL, utterances, chunk, left)
    monkeypatch.setattr(offline, "OFFLINE_BLOCK_FRAMES", 20)
    model = CountsFrames(MODEL.backend, MODEL.meta)
    blocks = offline_step(model, utterances, chunk, left)
    assert model.longest == min(longest, whole.blank.shape[1]) and blocks.blank.shape == whole.blank.shape
    np.testing.assert_array_equal(blocks.lengths, whole.lengths)
    for row in range(len(utterances)):
        (found, found_out), (expected, expected_out) = blocks.row(row), whole.row(row)
        np.testing.assert_array_equal(found.ids, expected.ids)
        np.testing.assert_allclose(found.log_probs, expected.log_probs, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found_out, expected_out, rtol=1e-5, atol=1e-6)


def test_full_context_is_a_chunk_larger_than_the_audio() -> None:
    assert text_of(transcribe_offline(MODEL, speak("abcd"), 1 << 30, 0)) == "a b c d"
    with pytest.raises(ValueError, match="chunk 9 with left context 1: the model was not trained for it"):
        transcribe_offline(MODEL, speak("abcd"), 9, 1)


def test_no_samples_at_all() -> None:
    results = transcribe_offline(MODEL, np.zeros(0, dtype=np.float32), 8, 2)
    assert [result.text for result in results] == [""]
    assert results[0].end_seconds == pytest.approx(3 * FRAME / 8000)  # the right padding
    silent = transcribe_offline(make_model(tail_samples=0), np.zeros(0, dtype=np.float32), 8, 2)
    assert [(result.text, result.end_seconds) for result in silent] == [("", 0.0)]


def test_defaults_that_users_get() -> None:
    plain = DecodingOptions(
        None, None, None, None, None, 0.0, 0.0, 10.0, 1.0, (), None, 0.5, 0.0, 0.0, EndpointRules(), None
    )
    assert DecodingOptions() == FILE_OPTIONS == plain
    assert replace(plain, endpoint=LIVE_ENDPOINTS, commit_seconds=1.0) == LIVE_OPTIONS
    assert HotWord("a").boost == 1.5
    resolved = plain.resolved(MODEL.meta)
    assert (resolved.beam_size, resolved.nbest) == (len(MODEL.meta.vocabulary), len(MODEL.meta.vocabulary))
    large = make_model(units=[*MODEL.meta.vocabulary.tokens, *"efghij"])
    assert plain.resolved(large.meta).beam_size == 10 < len(large.meta.vocabulary)


def test_defaults_come_from_the_model() -> None:
    options = DecodingOptions().resolved(MODEL.meta)
    assert (options.mode, options.ctc_weight, options.reverse_weight) == (RESCORING, 1.0, 0.0)
    without = make_model(decoder=False, reverse_decoder=False)
    assert DecodingOptions().resolved(without.meta).mode == PREFIX_BEAM
    with pytest.raises(ValueError, match="no attention decoder; choose ctc_greedy_search or ctc_prefix_beam_search"):
        DecodingOptions(RESCORING).resolved(without.meta)
    with pytest.raises(ValueError, match="no right-to-left decoder; reverse_weight must be 0, found 0.3"):
        DecodingOptions(reverse_weight=0.3).resolved(make_model(reverse_decoder=False).meta)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"mode": "attention"}, "unknown decoding mode 'attention'; choose one of"),
        ({"beam_size": 0}, "beam_size must be at least 1, found 0"),
        ({"beam_size": 3, "nbest": 4}, "nbest 4 is more than beam_size 3; choose a larger beam"),
        ({"beam_size": 8}, "beam_size 8 is larger than the vocabulary of 7 tokens; choose 7 or less"),
        ({"ctc_weight": -1.0}, "ctc_weight must be 0 to 1000, found -1.0"),
        ({"ctc_weight": math.nan}, "ctc_weight must be 0 to 1000, found nan"),
        ({"ctc_weight": math.inf}, "ctc_weight must be 0 to 1000, found inf"),
        ({"reverse_weight": 1.5}, "reverse_weight must be 0 to 1"),
        ({"lm_weight": math.inf}, "lm_weight must be 0 to 1000, found inf"),
        ({"length_penalty": math.nan}, "length_penalty must be -1000 to 1000, found nan"),
        ({"word_bonus": math.inf}, "word_bonus must be -1000 to 1000, found inf"),
        ({"unknown_word_penalty": -1.0}, "unknown_word_penalty must be 0 to 1000, found -1.0"),
        ({"token_threshold": 0.0}, "token_threshold must be positive and at most 1000, or inf"),
        ({"blank_skip_threshold": 0.3}, "blank_skip_threshold must be 0.5 to 1, found 0.3"),
        (
            {"mode": GREEDY, "length_penalty": 1.0},
            "ctc_greedy_search keeps a single hypothesis, so hot words, a language",
        ),
        ({"mode": GREEDY, "hot_words": [HotWord("a")]}, "choose ctc_prefix_beam_search or attention_rescoring"),
    ],
)
def test_wrong_options_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DecodingOptions(**wrong).resolved(MODEL.meta)
