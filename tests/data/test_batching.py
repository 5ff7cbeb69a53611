"""Batches: every utterance once, within the limits, with little padding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wenet_fusion.data.batching import epoch_batches, padding_fraction

durations = st.lists(st.floats(0.1, 30), max_size=200)


@given(durations, st.floats(1, 100), st.integers(1, 20), st.integers(0, 9), st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_every_index_once_within_the_limits(seconds, max_seconds, max_rows, seed, epoch):
    plan = epoch_batches(seconds, max_seconds, max_rows, seed, epoch)
    assert sorted(index for batch in plan for index in batch) == list(range(len(seconds)))
    for batch in plan:
        assert len(batch) <= max_rows
        assert len(batch) == 1 or len(batch) * max(seconds[index] for index in batch) <= max_seconds
    assert plan == epoch_batches(seconds, max_seconds, max_rows, seed, epoch)


def test_padding_is_small_and_epochs_differ():
    seconds = np.random.default_rng(0).uniform(1, 16, 3000).tolist()
    plans = [epoch_batches(seconds, 100.0, 1000, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert all(padding_fraction(seconds, plan) < 0.1 for plan in plans)
    assert plans[0] != plans[1] != plans[2] != plans[0]
    partners = [{frozenset(batch) for batch in plan} for plan in plans]
    assert len(partners[0] & partners[1]) < 0.01 * len(partners[0]), "not only the order of the batches changes"
    firsts = [np.mean([seconds[index] for index in batch]) for batch in plans[0]]
    assert abs(np.corrcoef(firsts, np.arange(len(firsts)))[0, 1]) < 0.2, "short ones do not come first"
    assert abs(np.corrcoef(firsts[1:], firsts[:-1])[0, 1]) < 0.3, "and they are not adjacent"
    sizes = [len(batch) * max(seconds[index] for index in batch) for batch in plans[0]]
    assert max(sizes) <= 100, "also where durations decrease"
    assert np.mean(sizes) > 85, "batches are full"


def test_padding_check_sees_unsorted_batches():
    seconds = np.random.default_rng(0).uniform(1, 16, 3000).tolist()
    unsorted = np.random.default_rng(1).permutation(3000).reshape(-1, 10).tolist()
    assert padding_fraction(seconds, unsorted) > 0.3


def test_batch_limits_must_make_sense():
    for limits in ((0.0, 1), (1.0, 0), (float("nan"), 1)):
        with pytest.raises(ValueError, match="max_batch_seconds"):
            epoch_batches([1.0], *limits, seed=0, epoch=0)
