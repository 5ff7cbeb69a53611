"""Every search obeys the protocol: cuts change nothing, stable prefixes stay, commits are exact."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.runtime.fake_model import make_model
from test_scorers import HOT_WORDS, WORDS, unit_ids
from test_searches import random_scores
from wenet_fusion_runtime import DecodingOptions
from wenet_fusion_runtime.search.frame_scores import FrameScores
from wenet_fusion_runtime.search.modes import MODES, PREFIX_BEAM, RESCORING, SEARCH_MODES, SearchSetup
from wenet_fusion_runtime.search.prefix_beam import PrefixBeamSearch
from wenet_fusion_runtime.search.scorer_set import make_scorers
from wenet_fusion_runtime.search.search_protocol import Search
from wenet_fusion_runtime.stream.segment_decoder import COMMIT_FRAMES, SegmentDecoder

FRAMES, FRAME = 40, 0.04
MODEL = make_model()
OPTIONS = DecodingOptions(beam_size=5).resolved(MODEL.meta)
ALTERNATIVES = [mode for mode in MODES if SEARCH_MODES[mode].has_alternatives]


def prefers_long(encoder_out: Sequence[np.ndarray], hypotheses: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Return scores that reverse the order of the first pass, and depend on every frame."""
    frames = sum(block.shape[1] for block in encoder_out)
    return np.array([[20.0 * len(ids) - frames, 0.0] for ids in hypotheses])


def make(mode: str, scored: bool = False, start_frame: int = 0) -> Search:
    scorers = make_scorers(WORDS, HOT_WORDS["words"] if scored else ())
    return SEARCH_MODES[mode].make(SearchSetup(OPTIONS, scorers, prefers_long, start_frame))


def advance(search: Search, scores: FrameScores) -> None:
    search.advance(scores, np.zeros((1, scores.frames, 2), np.float32))


def scores_of(seed: int) -> FrameScores:
    return unit_ids(random_scores(seed, FRAMES, 4, sharpness=2.5))


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(0, FRAMES), max_size=8), scored=st.booleans())
def test_cuts_change_nothing_and_stable_prefixes_stay(mode: str, seed: int, cuts: list[int], scored: bool) -> None:
    scores, whole, cut = scores_of(seed), make(mode, scored), make(mode, scored)
    advance(whole, scores)
    stable: tuple[int, ...] = ()
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), FRAMES]):
        advance(cut, scores.part(start, stop))
        best = cut.hypotheses(1)[0]
        assert best.ids[: len(stable)] == stable and len(stable) <= cut.stable_length() <= len(best.ids)
        stable = best.ids[: cut.stable_length()]
        for each in (*cut.hypotheses(5), *cut.final_hypotheses(5)):
            assert each.ids[: len(stable)] == stable
    for count in (1, 3, 5):
        assert cut.hypotheses(count) == whole.hypotheses(count) == whole.hypotheses(5)[:count]
        assert cut.final_hypotheses(count) == whole.final_hypotheses(5)[:count]


@pytest.mark.parametrize("mode", ALTERNATIVES)
def test_a_mode_hands_its_options_to_the_search(mode: str) -> None:
    scores = FrameScores(
        np.log([[0.6, 0.3, 0.1], [0.8, 0.15, 0.05]]), np.array([[3, 4, 0], [0, 3, 4]]), np.log([0.1, 0.8])
    )
    found = {}
    for name, options in (
        ("all", replace(OPTIONS, beam_size=6, token_threshold=9.0)),
        ("pruned", replace(OPTIONS, beam_size=6, token_threshold=0.5)),
        ("narrow", replace(OPTIONS, beam_size=2, nbest=2, token_threshold=9.0)),
        ("skipped", replace(OPTIONS, beam_size=6, token_threshold=9.0, blank_skip_threshold=0.7)),
    ):
        search = SEARCH_MODES[mode].make(SearchSetup(options, make_scorers(WORDS), prefers_long, 7, previous=3))
        advance(search, scores)
        found[name] = {each.ids: each.frames for each in search.hypotheses(6)}
    assert found["all"] == {(): (), (4,): (7,), (3,): (8,), (4, 3): (7, 8)}
    assert set(found["pruned"]) == {()}, "token 3 continues the one of the frame before, all others are pruned"
    assert set(found["skipped"]) == {(), (4,)} and len(found["narrow"]) == 2


def check_commits(make_search: Callable[[], Search], seed: int) -> int:
    """Commit at every frame; return how many hypotheses were dropped."""
    dropped = 0
    for frame in range(10, 10 + FRAMES + 2):
        search = make_search()
        advance(search, scores_of(seed))
        before = search.hypotheses(5)
        best = before[0]
        final = sum(emitted < frame for emitted in best.frames)  # tokens emitted before `frame`, by definition
        search.commit(frame)
        assert search.hypotheses(5) == [each for each in before if each.ids[:final] == best.ids[:final]]
        assert search.stable_length() >= final
        dropped += len(before) - len(search.hypotheses(5))
    return dropped


@pytest.mark.parametrize("mode", MODES)
def test_a_commit_makes_exactly_the_tokens_before_its_frame_final(mode: str) -> None:
    dropped = [check_commits(lambda: make(mode, start_frame=10), seed) for seed in range(5)]
    assert all(dropped) == (mode in ALTERNATIVES)


@pytest.mark.parametrize("shift", [-1, 1])
def test_the_check_catches_a_commit_that_is_off_by_one_frame(shift: int) -> None:
    class OffByOne(PrefixBeamSearch):
        def commit(self, frame: int) -> None:
            super().commit(frame + shift)

    with pytest.raises(AssertionError):
        check_commits(lambda: OffByOne(5, 10), seed=0)


def one_unsure_token(first: int, frames: int = 40) -> FrameScores:
    """Blank except in frame `first`, where two tokens are nearly equally probable: the beam keeps both."""
    blank, ids = np.full(frames, np.log(1 - 1e-6)), np.tile([0, 3, 4], (frames, 1))
    log_probs = np.stack([blank, np.full(frames, np.log(6e-7)), np.full(frames, np.log(4e-7))], axis=1)
    ids[first], log_probs[first], blank[first] = [3, 4, 0], np.log([0.5, 0.4, 0.1]), np.log(0.1)
    return FrameScores(log_probs.astype(np.float32), ids, blank.astype(np.float32))


AGE = 10  # frames


def final_after(first: int, mode: str, decoder_type: type[SegmentDecoder] = SegmentDecoder) -> int:
    """Return the number of frames after which a token emitted in frame `first` is final."""
    decoder = decoder_type(MODEL, DecodingOptions(mode, commit_seconds=AGE * FRAME, token_threshold=100.0))
    scores = one_unsure_token(first)
    for frame in range(scores.frames):
        decoder.accept(scores.part(frame, frame + 1), np.zeros((1, 1, 2), np.float32))
        if decoder.partial().words and decoder.partial().committed:
            return frame + 1
    return -1


@pytest.mark.parametrize("mode", [PREFIX_BEAM, RESCORING])
@pytest.mark.parametrize("first", range(1, 12))
def test_a_decoder_commits_tokens_older_than_the_age(mode: str, first: int) -> None:
    """After every fifth frame, tokens emitted more than AGE frames ago are final."""
    expected = next(count for count in range(0, 40, COMMIT_FRAMES) if first < count - AGE)
    assert final_after(first, mode) == expected


@pytest.mark.parametrize("shift", [-1, 1])
def test_the_ages_catch_a_decoder_that_is_off_by_one_frame(shift: int, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = PrefixBeamSearch.commit
    monkeypatch.setattr(PrefixBeamSearch, "commit", lambda self, frame: commit(self, frame + shift))
    with pytest.raises(AssertionError):
        for first in range(1, 12):
            test_a_decoder_commits_tokens_older_than_the_age(PREFIX_BEAM, first)
