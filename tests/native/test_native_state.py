"""The state of the native step is a value per stream; successive states share the keys and values of past frames."""

import copy
from types import ModuleType

import numpy as np
import pytest
from support.native.native_streams import fresh, load, noise, steps, written
from support.native.random_fused import random_fused


def test_a_state_is_a_value(kernels: ModuleType) -> None:
    model = load(kernels, random_fused(kernels, 302))
    audio, state = noise(model, 3, 1, 4), fresh(model)
    _, state = model.step(audio, [audio.shape[1]], 8, state)
    before = [part.copy() for part in written(state)]
    once, _ = model.step(audio, [audio.shape[1]], 8, state)
    assert all(np.array_equal(part, copy) for part, copy in zip(written(state), before))
    for same in (state, copy.deepcopy(state)):
        again, _ = model.step(audio, [audio.shape[1]], 8, same)
        assert np.array_equal(once.encoded, again.encoded)


def test_a_state_that_is_none_of_this_model_is_refused(kernels: ModuleType) -> None:
    model = load(kernels, random_fused(kernels, 302))
    audio, block = noise(model, 3, 1, 4), kernels.state.Block
    _, (good,) = model.step(audio, [audio.shape[1]], 8, fresh(model))
    short = good._replace(rolling=block(np.zeros(1, np.float32)))
    narrow = good._replace(past=(block(np.zeros((1, 1, 2, 4, 1), np.float32)),))
    flat = good._replace(past=(block(np.zeros(8, np.float32)),))
    for state in (None, 5, (None,), (short,), (narrow,), (flat,), (good, good)):
        with pytest.raises(ValueError, match="the state is not one of 1 streams of this model with 8 cached frames"):
            model.step(audio, [audio.shape[1]], 8, state)
    for array in (np.zeros(4), np.zeros(8, np.float32)[::2], np.frombuffer(b"x" * 17, np.float32, 4, 1)):
        with pytest.raises(ValueError, match="a block needs a contiguous and aligned array of float32"):
            block(array)


def test_a_state_may_be_a_list(kernels: ModuleType) -> None:
    model = load(kernels, random_fused(kernels, 302))
    audio = noise(model, 3, 1, 4)
    once, _ = model.step(audio, [audio.shape[1]], 8, fresh(model))
    again, _ = model.step(audio, [audio.shape[1]], 8, list(fresh(model)))
    assert np.array_equal(once.encoded, again.encoded)


def test_a_state_keeps_no_more_blocks_than_the_left_context_needs(kernels: ModuleType) -> None:
    model = load(kernels, random_fused(kernels, 302))
    frames = [
        [block.memory.shape[3] for block in state[0].past]
        for _, state in steps(model, noise(model, 3, 1, 17), [5, 4, 4, 3, 1], 8)
    ]
    assert frames == [[5], [5, 4], [4, 4], [4, 4, 3], [4, 3, 1]]


def test_a_state_of_another_model_is_refused(kernels: ModuleType) -> None:
    model, other = (load(kernels, random_fused(kernels, 306, max_distance=distance)) for distance in (3, 4))
    with pytest.raises(ValueError, match="the state is not one of 1 streams of this model with 8 cached frames"):
        model.step(noise(model, 1, 1, 1), [1], 8, fresh(other))


def test_streams_at_other_positions_share_a_step(kernels: ModuleType) -> None:
    model = load(kernels, random_fused(kernels, 300))
    audio = noise(model, 1, 2, 8)
    late, _ = model.step(audio[1:, : 4 * model.sizes.frame_samples], [4 * model.sizes.frame_samples], 8, fresh(model))
    states, samples = [], []
    for row, start in ((0, 4), (1, 0)):
        state = fresh(model)
        if start:
            first = audio[row : row + 1, : start * model.sizes.frame_samples]
            _, state = model.step(first, [first.shape[1]], 8, state)
        states.append(state)
        samples.append(audio[row, start * model.sizes.frame_samples :][: 4 * model.sizes.frame_samples])
    output, _ = model.step(np.stack(samples), [len(samples[0])] * 2, 8, states[0] + states[1])
    assert np.array_equal(output.encoded[1:], late.encoded)
