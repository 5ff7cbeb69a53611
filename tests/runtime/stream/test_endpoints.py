"""The rules that close segments: when they close, independence of cuts of the frames, and no lost frame."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.runtime.fake_model import make_model
from wenet_fusion_runtime.results.result import Endpoint, Result, joined_ids
from wenet_fusion_runtime.search.frame_scores import FrameScores
from wenet_fusion_runtime.search.modes import GREEDY, PREFIX_BEAM
from wenet_fusion_runtime.stream.decoding_options import DecodingOptions
from wenet_fusion_runtime.stream.endpoints import (
    FILE_ENDPOINTS,
    LIVE_ENDPOINTS,
    EndpointRules,
    FrameRules,
    Scan,
    SegmentCounts,
)
from wenet_fusion_runtime.stream.segment_decoder import SegmentDecoder

FRAME = 0.04
A, B = 3, 4  # tokens
RULES = EndpointRules(None, None, 0.8, 0.16, 0.4)  # 20 frames, then 4 silent ones, or 10 more
ALL_RULES = replace(RULES, rule1_seconds=0.4, rule2_seconds=0.2)  # 10 and 5 frames
MODEL = make_model()


def closings(
    units: list[int],
    cuts: Sequence[int] = (),
    rules: EndpointRules = RULES,
    frame_rules: type[FrameRules] = FrameRules,
    blank_probabilities: list[float] | None = None,
) -> list[tuple[int, str]]:
    """Return the frame at which each segment closed, and the reason; frames come in blocks."""
    counts, found, scanner = SegmentCounts(), [], frame_rules(rules, FRAME)
    blank = np.log(blank_probabilities or [1.0] * len(units))
    bounds = [0, *sorted(min(cut, len(units)) for cut in cuts), len(units)]
    for start, stop in itertools.pairwise(bounds):
        while True:
            counts, count, endpoint = scanner.scan(counts, np.array(units[start:stop], dtype=int), blank[start:stop])
            start += count
            if endpoint is None:
                break
            found.append((start, endpoint.value))
            counts = SegmentCounts(previous=counts.previous)
    return found


def speech(frames: int) -> list[int]:
    return [A] * frames


def silence(frames: int) -> list[int]:
    return [0] * frames


# ---- rule 3, the only one by default


def test_closes_at_the_first_silence_after_the_maximum() -> None:
    assert closings(speech(23) + silence(10)) == [(27, "rule3")]


def test_a_silence_that_spans_the_maximum_counts_from_its_start() -> None:
    assert closings(speech(17) + silence(10)) == [(21, "rule3")]
    assert closings(silence(45)) == [(20, "rule3"), (40, "rule3")]


def test_an_early_or_short_silence_does_not_close() -> None:
    assert closings((speech(12) + silence(6) + speech(5) + silence(3) + speech(1))[:29]) == []


def test_closes_at_the_latest_after_the_extra_time() -> None:
    assert closings(speech(65)) == [(30, "rule3"), (60, "rule3")]


# ---- rules 1 and 2


def test_silence_closes_a_segment_late_without_text_and_soon_after_text() -> None:
    assert closings(silence(12) + speech(3) + silence(12), rules=ALL_RULES) == [(10, "rule1"), (20, "rule2")]
    assert closings(silence(12), rules=replace(ALL_RULES, rule1_seconds=None)) == []
    without = replace(ALL_RULES, rule2_seconds=None)
    assert closings(speech(3) + silence(12), rules=without) == []
    assert closings(speech(3) + silence(30), rules=without) == [(20, "rule3"), (30, "rule1")]


def test_speech_between_silences_begins_the_count_anew() -> None:
    assert closings((silence(4) + speech(1)) * 3, rules=ALL_RULES) == []


def test_the_rest_of_a_cut_token_is_no_text() -> None:
    # Rule 3 closes a segment within a token; the frames after the cut still belong to that token.
    assert closings(speech(32) + silence(8), rules=ALL_RULES) == [(30, "rule3")]
    assert closings(speech(32) + silence(10), rules=ALL_RULES) == [(30, "rule3"), (42, "rule1")]
    assert closings(speech(32) + [B] + silence(5), rules=ALL_RULES) == [(30, "rule3"), (38, "rule2")]


def test_silence_by_probability() -> None:
    rules = replace(ALL_RULES, silence_probability=0.8)
    unsure = silence(8), [0.6] * 8
    assert closings(unsure[0], rules=ALL_RULES, blank_probabilities=unsure[1]) == []  # 8 of 10 frames
    assert closings(silence(30), rules=rules, blank_probabilities=[0.6] * 30) == [(30, "rule3")]
    assert closings(silence(30), rules=rules, blank_probabilities=[0.9] * 30)[0] == (10, "rule1")


def test_defaults_of_files_and_of_live_audio() -> None:
    assert DecodingOptions().endpoint == FILE_ENDPOINTS == EndpointRules(None, None, 20.0, 0.4, 10.0)
    pause = speech(5) + silence(400) + speech(5)
    assert closings(pause, rules=FILE_ENDPOINTS) == []
    assert closings(pause, rules=LIVE_ENDPOINTS)[:2] == [(35, "rule2"), (95, "rule1")]  # after 1.2 s and 2.4 s


# ---- laws of the rules

FRAMES = st.lists(st.sampled_from([0, 0, 0, 0, A, A, B]), max_size=200)
CUTS = st.lists(st.integers(0, 200), max_size=20)
MAYBE = st.sampled_from([None, 0.01, 0.12, 0.3])
ANY_RULES = st.builds(
    EndpointRules, MAYBE, MAYBE, st.sampled_from([0.04, 0.4, 1.0]), st.sampled_from([0.0, 0.12]),
    st.sampled_from([0.0, 0.2]), st.sampled_from([None, 0.5]),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(units=FRAMES, cuts=CUTS, rules=ANY_RULES, seed=st.integers(0, 99))
def test_closings_do_not_depend_on_blocks(units: list[int], cuts: list[int], rules: EndpointRules, seed: int) -> None:
    probabilities = np.random.default_rng(seed).uniform(0.01, 1, len(units)).tolist()
    whole = closings(units, [], rules, FrameRules, probabilities)
    assert closings(units, cuts, rules, FrameRules, probabilities) == whole


class ForgetsSilence(FrameRules):
    """Seeded bug: silence begins anew with each block."""

    def scan(self, counts: SegmentCounts, units: np.ndarray, blank_log_probs: np.ndarray) -> Scan:
        return super().scan(counts._replace(silent=0), units, blank_log_probs)


def test_the_law_catches_rules_that_forget_silence_between_blocks() -> None:
    units = speech(20) + silence(4) + speech(3)
    assert closings(units, [22], RULES, ForgetsSilence) != closings(units, [], RULES, ForgetsSilence)


# ---- laws of the decoder: segments are cuts of one recording, nothing more


def random_scores(rng: np.random.Generator, frames: int, sharpness: float = 4.0) -> FrameScores:
    """Return posteriors over all 7 tokens with runs of tokens and blank; a smaller `sharpness` is less certain."""
    lengths = rng.integers(1, 12, frames)
    best = np.repeat(np.where(rng.random(frames) < 0.5, 0, rng.integers(3, 7, frames)), lengths)[:frames]
    logits = rng.standard_normal((frames, 7))
    logits[np.arange(frames), best] += sharpness
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    ids = np.argsort(-log_probs, axis=1)
    return FrameScores(
        np.take_along_axis(log_probs, ids, 1).astype(np.float32), ids, log_probs[:, 0].astype(np.float32)
    )


def decode(
    scores: FrameScores, options: DecodingOptions, cuts: Sequence[int] = (), closes: Sequence[int] = ()
) -> list[Result]:
    """Return segments of frames that come in blocks up to `cuts`; the open segment is closed on request at `closes`."""
    decoder, results = SegmentDecoder(MODEL, options), []
    nothing = np.zeros((1, len(scores.blank), 2), dtype=np.float32)
    bounds = sorted({0, len(scores.blank), *cuts, *closes})
    for start, stop in itertools.pairwise(bounds):
        results += decoder.accept(scores.part(start, stop), nothing[:, start:stop])
        if stop in closes:
            results.append(decoder.close())
    return [*results, decoder.finish()]


def check_frames(results: list[Result], frames: int) -> None:
    """Frame counts: each frame belongs to exactly one segment."""
    starts = [round(result.start_seconds / FRAME) for result in results]
    ends = [round(result.end_seconds / FRAME) for result in results]
    assert starts[0] == 0 and ends[-1] == frames and starts[1:] == ends[:-1]
    assert [result.segment for result in results] == list(range(len(results)))
    for result, start, end in zip(results, starts, ends):
        assert all(start <= frame < end for frame in result.hypotheses[0].frames)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), rules=ANY_RULES, cuts=CUTS, closes=st.lists(st.integers(1, 200), max_size=5))
def test_greedy_segments_joined_are_the_uncut_transcript(
    seed: int, rules: EndpointRules, cuts: list[int], closes: list[int]
) -> None:
    """This holds for any rules, wherever they close segments, and for uncertain posteriors."""
    scores = random_scores(np.random.default_rng(seed), 200, sharpness=2.0)
    options = DecodingOptions(GREEDY, endpoint=rules)
    uncut = decode(scores, DecodingOptions(GREEDY))
    results = decode(scores, options, cuts, closes)
    assert len(uncut) == 1 and joined_ids(results) == joined_ids(uncut)
    check_frames(results, 200)
    assert results == decode(scores, options, [], closes)
    for result in results:
        assert (result.endpoint is not Endpoint.RULE1 or not result.tokens) and result.is_final
        assert result.endpoint is not Endpoint.RULE2 or result.tokens


class LosesAFrame(SegmentDecoder):
    """Seeded bug: the first frame of a new segment is dropped."""

    def accept(self, scores: FrameScores, encoder_out: np.ndarray) -> list[Result]:
        if self._segment and not self._counts.frames:
            scores = scores.part(1)
        return super().accept(scores, encoder_out)


class DecodesTwice(SegmentDecoder):
    """Seeded bug: a new segment forgets within which token it began."""

    def close(self, endpoint: Endpoint = Endpoint.REQUEST) -> Result:
        self._counts = self._counts._replace(previous=0)
        return super().close(endpoint)


@pytest.mark.parametrize("bug", [LosesAFrame, DecodesTwice])
def test_the_law_catches_lost_and_doubled_tokens(bug: type, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, options = random_scores(np.random.default_rng(0), 200, sharpness=9.0), DecodingOptions(GREEDY)
    uncut = decode(scores, options)
    monkeypatch.setitem(globals(), "SegmentDecoder", bug)
    cuts = list(range(1, 200))
    assert joined_ids(decode(scores, options, cuts, cuts)) != joined_ids(uncut)


@pytest.mark.parametrize("mode", [GREEDY, PREFIX_BEAM])
def test_thousands_of_segments_in_one_stream(mode: str) -> None:
    """Rules 1 and 2 close segments in silence only, so a certain search gives the transcript without segments."""
    rng, frames = np.random.default_rng(1), 40_000  # 27 minutes
    scores = random_scores(rng, frames, sharpness=14.0)
    options = DecodingOptions(mode, beam_size=2, endpoint=EndpointRules(0.4, 0.2, 4000.0))
    results = decode(scores, options, sorted(rng.integers(0, frames, 1000).tolist()))
    check_frames(results, frames)
    assert len(results) > 1500 and {result.endpoint for result in results[:-1]} == {Endpoint.RULE1, Endpoint.RULE2}
    assert results[-1].endpoint is Endpoint.END
    empty = [not result.tokens for result in results[:-1]]
    assert 100 < sum(empty) < len(empty) and empty == [r.endpoint is Endpoint.RULE1 for r in results[:-1]]
    uncut = decode(scores, DecodingOptions(GREEDY, endpoint=EndpointRules(rule3_seconds=4000.0)))
    assert len(uncut) == 1 and joined_ids(results) == joined_ids(uncut)


def test_a_request_closes_the_open_segment_even_if_it_is_empty() -> None:
    scores = random_scores(np.random.default_rng(2), 30)
    results = decode(scores, DecodingOptions(GREEDY), closes=[12])
    assert [(r.endpoint, r.end_seconds) for r in results] == [
        (Endpoint.REQUEST, 12 * FRAME),
        (Endpoint.END, 30 * FRAME),
    ]
    decoder = SegmentDecoder(MODEL, DecodingOptions())  # rescoring, without a frame to rescore
    assert (decoder.close().text, decoder.close().segment, decoder.partial().endpoint) == ("", 1, None)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"rule1_seconds": -1.0}, "rule1_seconds must be positive, or None for never, found -1"),
        ({"rule2_seconds": 0.0}, "rule2_seconds must be positive"),
        ({"rule3_seconds": 0.0}, "rule3_seconds must be positive"),
        ({"rule3_seconds": math.inf}, "rule3_seconds must be a number of at most 1e\\+07, found inf"),
        ({"rule1_seconds": 1e308}, "rule1_seconds must be a number of at most 1e\\+07, found 1e\\+308"),
        ({"rule3_extra_seconds": math.nan}, "rule3_extra_seconds must be a number of at most 1e\\+07, found nan"),
        ({"rule3_silence_seconds": -0.1}, "rule3_silence_seconds must not be negative, found -0.1"),
        ({"rule3_extra_seconds": -2}, "rule3_extra_seconds must not be negative"),
        ({"silence_probability": 1.0}, "silence_probability must lie between 0 and 1"),
    ],
)
def test_wrong_rules_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EndpointRules(**wrong)
