"""CTC searches compared with enumeration of all alignments and with a plain implementation, under any cut."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wenet_fusion_runtime.search import prefix_beam as search_module
from wenet_fusion_runtime.search.frame_scores import FrameScores
from wenet_fusion_runtime.search.greedy import GreedySearch
from wenet_fusion_runtime.search.prefix_beam import PrefixBeamSearch


def random_scores(seed: int, frames: int, units: int, top: int | None = None, sharpness: float = 2.0) -> FrameScores:
    logits = np.random.default_rng(seed).standard_normal((frames, units)) * sharpness
    logits[:, 0] += 0.5 * sharpness
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    ids = np.argsort(-log_probs, axis=1, kind="stable")[:, : top or units]
    best = np.take_along_axis(log_probs, ids, axis=1)
    return FrameScores(best.astype(np.float32), ids, log_probs[:, 0].astype(np.float32))


def frame_options(scores: FrameScores, frame: int) -> dict[int, float]:
    """Return the tokens that the search may choose at a frame: the top tokens, and blank."""
    options = dict(zip(scores.ids[frame].tolist(), scores.log_probs[frame].astype(float).tolist()))
    options[0] = float(scores.blank[frame])
    return options


def collapse(alignment: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the tokens of an alignment and the first frame of each token."""
    first = [i for i, unit in enumerate(alignment) if unit and (i == 0 or alignment[i - 1] != unit)]
    return tuple(alignment[i] for i in first), tuple(first)


def enumerate_prefixes(scores: FrameScores) -> dict[tuple[int, ...], tuple[float, tuple[int, ...]]]:
    """Return for each prefix the log of the sum over all alignments, and the frames of its best one, by brute force."""
    frames = len(scores.blank)
    options = [frame_options(scores, frame) for frame in range(frames)]
    sums: dict[tuple[int, ...], float] = {}
    best: dict[tuple[int, ...], tuple[float, tuple[int, ...]]] = {}
    for alignment in itertools.product(*options):
        prefix, emitted = collapse(alignment)
        log_prob = sum(options[frame][unit] for frame, unit in enumerate(alignment))
        sums[prefix] = np.logaddexp(sums.get(prefix, -np.inf), log_prob)
        best[prefix] = max(best.get(prefix, (-np.inf, ())), (log_prob, emitted))
    return {prefix: (total, best[prefix][1]) for prefix, total in sums.items()}


def agrees_with_enumeration(scores: FrameScores) -> bool:
    expected = enumerate_prefixes(scores)
    search = PrefixBeamSearch(beam_size=10_000)
    search.advance(scores)
    found = {hypothesis.ids: hypothesis for hypothesis in search.hypotheses(10_000)}
    return (
        len(found) == len(search.hypotheses(10_000))
        and found.keys() == expected.keys()
        and all(math.isclose(found[ids].ctc_score, total, abs_tol=1e-9) for ids, (total, _) in expected.items())
        and all(found[ids].frames == frames for ids, (_, frames) in expected.items())
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), frames=st.integers(0, 5), units=st.integers(2, 4), dropped=st.integers(0, 1))
def test_prefix_beam_sums_all_alignments(seed: int, frames: int, units: int, dropped: int) -> None:
    assert agrees_with_enumeration(random_scores(seed, frames, units, top=units - dropped))


def test_enumeration_catches_prefixes_that_are_not_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module.Prefix, "child", lambda self, token: search_module.Prefix(token, self))
    assert not agrees_with_enumeration(random_scores(0, 5, 3))


def test_enumeration_catches_a_missing_blank_between_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(node: search_module.Prefix, unit: int) -> tuple:
        return node.sums[2], *search_module._best(node.sums)  # ignores how an alignment ends

    monkeypatch.setattr(search_module, "_source", forgetful)
    assert not agrees_with_enumeration(random_scores(0, 4, 3))


def plain_prefix_beam(
    scores: FrameScores,
    beam_size: int,
    bonus: Callable[[tuple[int, ...]], float] = lambda prefix: 0.0,
    keep: Callable[[int, tuple[int, ...]], bool] = lambda frame, prefix: True,
) -> list[tuple[tuple[int, ...], float]]:
    """The textbook algorithm on copied tuples: after each frame the beam is cut, then filtered by `keep`. `bonus` is
    added to each score."""
    beam = {(): (0.0, -np.inf)}
    for frame in range(len(scores.blank)):
        following: dict[tuple[int, ...], list[float]] = {}
        for prefix, (blank_sum, token_sum) in beam.items():
            for unit, log_prob in frame_options(scores, frame).items():
                total = np.logaddexp(blank_sum, token_sum)
                if unit == 0:
                    moves = [(prefix, 0, total)]
                elif prefix and prefix[-1] == unit:
                    moves = [(prefix, 1, token_sum), (prefix + (unit,), 1, blank_sum)]
                else:
                    moves = [(prefix + (unit,), 1, total)]
                for reached, ending, before in moves:
                    sums = following.setdefault(reached, [-np.inf, -np.inf])
                    sums[ending] = np.logaddexp(sums[ending], before + log_prob)
        ranked = sorted(following.items(), key=lambda item: -np.logaddexp(*item[1]) - bonus(item[0]))
        beam = {prefix: (sums[0], sums[1]) for prefix, sums in ranked[:beam_size] if keep(frame, prefix)}
    return [(prefix, float(np.logaddexp(*sums)) + bonus(prefix)) for prefix, sums in beam.items()]


RETURNING_SEEDS = (0, 3, 13, 15)  # a prefix leaves a beam of 6, while a longer prefix stays, and later returns


def agrees_with_textbook(seed: int, beam_size: int) -> bool:
    scores = random_scores(seed, 30, 4, sharpness=1.5)
    search = PrefixBeamSearch(beam_size)
    search.advance(scores)
    found = search.hypotheses(beam_size)
    expected = plain_prefix_beam(scores, beam_size)
    return [h.ids for h in found] == [prefix for prefix, _ in expected] and np.allclose(
        [h.ctc_score for h in found], [total for _, total in expected], rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("beam_size", [1, 3, 6])
def test_prefix_beam_equals_the_textbook_when_prefixes_leave_the_beam_and_return(beam_size: int) -> None:
    assert all(agrees_with_textbook(seed, beam_size) for seed in RETURNING_SEEDS)


@pytest.mark.parametrize("frame", [8, 12, 14])
def test_a_search_continues_from_a_commit_as_the_textbook_does(frame: int) -> None:
    for seed in range(12):
        scores, search = random_scores(seed, 30, 4, sharpness=1.5), PrefixBeamSearch(6)
        search.advance(scores.part(0, 15))
        best = search.hypotheses(1)[0]
        final = best.ids[: sum(emitted < frame for emitted in best.frames)]
        search.commit(frame)
        search.advance(scores.part(15))
        expected = plain_prefix_beam(scores, 6, keep=lambda at, ids: at != 14 or ids[: len(final)] == final)
        found = search.hypotheses(6)
        assert [each.ids for each in found] == [ids for ids, _ in expected]
        np.testing.assert_allclose([each.score for each in found], [score for _, score in expected], rtol=1e-12)


def test_the_textbook_catches_a_prefix_that_returns_as_another_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module.Prefix, "child", lambda self, token: search_module.Prefix(token, self))
    assert not all(agrees_with_textbook(seed, beam_size=6) for seed in RETURNING_SEEDS)


def pieces(scores: FrameScores, cuts: list[int]) -> list[FrameScores]:
    bounds = [0, *sorted(cuts), len(scores.blank)]
    return [scores.part(start, stop) for start, stop in itertools.pairwise(bounds)]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 100), cuts=st.lists(st.integers(0, 40), max_size=12), greedy=st.booleans())
def test_any_cut_of_the_frames_gives_the_same_hypotheses_bit_for_bit(seed: int, cuts: list[int], greedy: bool) -> None:
    scores = random_scores(seed, 40, 6, top=4)
    whole, cut = (GreedySearch(), GreedySearch()) if greedy else (PrefixBeamSearch(4), PrefixBeamSearch(4))
    whole.advance(scores)
    for piece in pieces(scores, cuts):
        cut.advance(piece)
        cut.hypotheses(1)  # reading the hypotheses changes nothing
    assert cut.hypotheses(4) == whole.hypotheses(4)


def test_the_split_law_catches_a_search_that_forgets_its_last_token() -> None:
    class Forgetful(GreedySearch):
        def advance(self, scores: FrameScores) -> None:
            self._previous = 0
            super().advance(scores)

    scores = sharp([1, 1, 1, 0])
    whole, cut = Forgetful(), Forgetful()
    whole.advance(scores)
    for piece in pieces(scores, [2]):
        cut.advance(piece)
    assert cut.hypotheses() != whole.hypotheses()


def sharp(best: list[int], units: int = 4, probability: float = 0.97) -> FrameScores:
    """Return frames that are nearly certain of one token each."""
    probabilities = np.full((len(best), units), (1 - probability) / (units - 1))
    probabilities[np.arange(len(best)), best] = probability
    log_probs = np.log(probabilities)
    ids = np.argsort(-log_probs, axis=1, kind="stable")
    ranked = np.take_along_axis(log_probs, ids, axis=1).astype(np.float32)
    return FrameScores(ranked, ids, log_probs[:, 0].astype(np.float32))


@pytest.mark.parametrize("make", [GreedySearch, PrefixBeamSearch])
def test_a_token_has_the_first_frame_of_its_run_and_the_confidence_of_its_peak(make: type) -> None:
    scores = sharp([0, 1, 1, 0, 1, 2, 2, 0])
    peak = math.log(0.99)
    scores.log_probs[2, 0] = peak
    search = make(start_frame=100)
    search.advance(scores)
    best = search.hypotheses(1)[0]
    assert best.ids == (1, 1, 2)
    assert best.frames == (101, 104, 105)
    np.testing.assert_allclose(best.confidences, [0.99, 0.97, 0.97], rtol=1e-6)


@pytest.mark.parametrize("make", [GreedySearch, PrefixBeamSearch])
@pytest.mark.parametrize("frames, ids", [([1, 1, 0, 2], (2,)), ([1, 0, 1], (1,)), ([2, 1], (2, 1)), ([0, 1], (1,))])
def test_a_token_that_began_before_the_search_is_not_emitted_again(
    make: type, frames: list[int], ids: tuple[int, ...]
) -> None:
    search = make(previous=1)
    search.advance(sharp(frames))
    assert search.hypotheses(1)[0].ids == ids


def test_blank_counts_when_it_is_not_among_the_top_tokens() -> None:
    log_probs = np.log(np.array([[0.5, 0.3]] * 3, dtype=np.float32))
    scores = FrameScores(log_probs, np.array([[1, 2]] * 3), np.log(np.full(3, 0.2, dtype=np.float32)))
    assert agrees_with_enumeration(scores)


def test_greedy_takes_the_best_alignment() -> None:
    scores = random_scores(5, 30, 6)
    search = GreedySearch()
    search.advance(scores)
    ids, frames = collapse(tuple(scores.ids[:, 0].tolist()))
    best = search.hypotheses(3)[0]
    assert (best.ids, best.frames) == (ids, frames)
    assert math.isclose(best.score, float(scores.log_probs[:, 0].astype(float).sum()), rel_tol=1e-9)


def test_no_frames_give_one_empty_hypothesis() -> None:
    for search in (GreedySearch(), PrefixBeamSearch(3)):
        assert [hypothesis.ids for hypothesis in search.hypotheses(3)] == [()]


def test_a_beam_of_0_is_refused() -> None:
    with pytest.raises(ValueError, match="beam_size must be at least 1, found 0"):
        PrefixBeamSearch(0)


def test_tokens_far_below_the_best_are_pruned() -> None:
    log_probs = np.log(np.array([[0.9, 0.06, 0.04 - 1e-4]] * 2, dtype=np.float32))
    scores = FrameScores(log_probs, np.array([[1, 2, 3]] * 2), np.log(np.full(2, 1e-4, dtype=np.float32)))
    units = {}
    for threshold in (math.inf, 3.0, 2.8, 1.0):
        search = PrefixBeamSearch(100, token_threshold=threshold)
        search.advance(scores)
        units[threshold] = {unit for hypothesis in search.hypotheses(100) for unit in hypothesis.ids}
    assert units == {math.inf: {1, 2, 3}, 3.0: {1, 2}, 2.8: {1, 2}, 1.0: {1}}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), threshold=st.sampled_from([1.0, 3.0]), skip=st.sampled_from([0.5, 0.8, 1.0]))
def test_pruned_tokens_count_as_impossible(seed: int, threshold: float, skip: float) -> None:
    """Blank keeps its probability in skipped frames; the same token before and after such a frame counts twice."""
    scores = random_scores(seed, 5, 4, sharpness=3.0)
    limit = np.maximum(scores.log_probs[:, :1], scores.blank[:, None]) - threshold
    possible = (scores.log_probs > limit) & (scores.blank[:, None] <= math.log(skip)) | (scores.ids == 0)
    cut = scores._replace(log_probs=np.where(possible, scores.log_probs, -np.inf))
    search = PrefixBeamSearch(10_000, token_threshold=threshold, blank_skip_threshold=skip)
    search.advance(scores)
    expected = {ids: total for ids, (total, _) in enumerate_prefixes(cut).items() if total > -np.inf}
    found = {hypothesis.ids: hypothesis.ctc_score for hypothesis in search.hypotheses(10_000)}
    assert found.keys() == expected.keys()
    assert all(math.isclose(found[ids], expected[ids], abs_tol=1e-9) for ids in expected)


def test_a_token_before_and_after_a_skipped_frame_counts_twice() -> None:
    scores = sharp([1, 0, 1])
    search = PrefixBeamSearch(blank_skip_threshold=0.9)
    search.advance(scores)
    assert search.hypotheses(1)[0].ids == (1, 1)


def test_a_long_silence_changes_nothing_but_the_score() -> None:
    before, silence, after = sharp([1, 2, 2]), sharp([0] * 50, probability=1 - 1e-7), sharp([2, 0])
    scores = [FrameScores(*map(np.concatenate, zip(before, *middle, after))) for middle in ([], [silence])]
    best = []
    for each in scores:
        search = PrefixBeamSearch(5, token_threshold=5.0)
        search.advance(each)
        best.append(search.hypotheses(1)[0])
    assert (best[0].ids, best[1].ids) == ((1, 2), (1, 2, 2)) and best[1].frames == (0, 1, 53)
    assert best[1].ctc_score == pytest.approx(5 * math.log(0.97), abs=0.1)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), penalty=st.floats(0, 10))
def test_a_blank_penalty_is_subtracted_from_the_logit_of_blank(seed: int, penalty: float) -> None:
    scores = random_scores(seed, 6, 5)
    found = scores.with_blank_penalty(penalty)
    for frame in range(6):
        before, after = frame_options(scores, frame), frame_options(found, frame)
        total = math.log(sum(math.exp(value - penalty * (unit == 0)) for unit, value in before.items()))
        assert all(
            math.isclose(after[unit], before[unit] - penalty * (unit == 0) - total, abs_tol=1e-5) for unit in before
        )
    assert (np.diff(found.log_probs, axis=1) <= 0).all()
    np.testing.assert_array_equal(found.part(2, 4).ids, scores.part(2, 4).with_blank_penalty(penalty).ids)
