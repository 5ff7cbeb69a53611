"""The checks of an export: scores, tokens whose best choice is clear, and rows of a batch."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
from support.model.streams import audio
from wenet_fusion_runtime.model.acoustic_model import AcousticModel, StepScores
from wenet_fusion_runtime.model.model_file import load_model

from wenet_fusion.export.verification import Verification, clear_best, relative_difference, verify
from wenet_fusion.trained_model import TrainedModel, acoustic_model

pytestmark = pytest.mark.usefixtures("float32")


@pytest.mark.parametrize(
    "field, value", [("largest_difference", 2e-4), ("rescoring_difference", 2e-4), ("different_tokens", 1)]
)
def test_each_difference_alone_is_refused(field: str, value: float) -> None:
    good = Verification(1e-4, 1e-4, frames=10, different_tokens=0, utterances=1, chunk_sizes=(4,))
    good.raise_if_different(Path("model.pt"))
    with pytest.raises(ValueError, match="model.pt is not kept: it differs .* of 10 frames"):
        dataclasses.replace(good, **{field: value}).raise_if_different(Path("model.pt"))


@pytest.mark.parametrize(
    "value, target", [([1.0], [1.0, 2.0]), ([np.nan], [1.0]), ([1.0], [np.nan]), ([np.inf], [np.inf])]
)
def test_outputs_that_cannot_be_compared_differ(value: list[float], target: list[float]) -> None:
    assert relative_difference(np.array(value), np.array(target)) == np.inf
    assert relative_difference(np.array([2.0, 0.0]), np.array([2.0, -1.0])) == 0.5


def test_a_best_token_is_clear_beyond_what_rounding_could_turn() -> None:
    log_probs = np.log(np.array([[0.6, 0.3, 0.1], [0.45001, 0.45, 0.09999], [0.9, 1e-10, 1e-30]]))
    assert clear_best(log_probs, 1e-4).tolist() == [True, False, True]
    assert clear_best(log_probs, 0.01).tolist() == [True, False, True]
    assert clear_best(log_probs, 0.1).tolist() == [False, False, False]
    assert clear_best(log_probs, np.inf).all(), "int8: every frame counts"


class Broken(AcousticModel):
    """A file that is wrong in one way."""

    def __init__(self, model: AcousticModel, change: Any):
        super().__init__(model.backend, model.meta)
        self.change = change

    def step(self, samples: np.ndarray, lengths: Any, chunk: int, left: int, state: Any) -> tuple[StepScores, Any]:
        scores, state = super().step(samples, lengths, chunk, left, state)
        return self.change(scores), state


def neighbours_mix(scores: StepScores) -> StepScores:
    """Return scores that are correct for a single row only."""
    return scores._replace(encoder_out=scores.encoder_out + 0.01 * (len(scores.encoder_out) - 1))


def other_best(scores: StepScores) -> StepScores:
    return scores._replace(ids=scores.ids[:, :, ::-1])


@pytest.mark.parametrize("change, difference, different", [
    (lambda scores: scores, 1e-5, 0),
    (neighbours_mix, np.inf, 0),
    (other_best, 1e-5, np.inf),
    (lambda scores: scores._replace(log_probs=scores.log_probs + 1.0), np.inf, 0),
    (lambda scores: scores._replace(blank=scores.blank + 1.0), np.inf, 0),
    (lambda scores: scores._replace(encoder_out=scores.encoder_out * 1.01), np.inf, 0),
])  # fmt: skip
def test_each_fault_is_found(
    exported: Path, trained: TrainedModel, change: Any, difference: float, different: float
) -> None:
    model = Broken(load_model(exported), change)
    found = verify(acoustic_model(trained), model, [audio(1.1)])
    assert (found.utterances, found.chunk_sizes) == (2, (4, 8)) and found.frames > 400
    for value, limit in ((found.largest_difference, difference), (found.different_tokens, different)):
        assert value <= limit if limit < np.inf else value > 1e-3
    if change is neighbours_mix:
        assert verify(acoustic_model(trained), model, [audio(1.1)], batches=False).largest_difference < 1e-5


def test_silent_bands_of_upsampled_speech_do_not_count(exported: Path, trained: TrainedModel) -> None:
    """Mel bands above the original band hold only rounding errors, whose logs change with the order of every sum."""
    rate = trained.config.model.frontend.sample_rate
    original = audio(1.1)[::2]
    upsampled = soxr.resample(original * np.hanning(original.size), rate / 2, rate).astype(np.float32)
    found = verify(acoustic_model(trained), load_model(exported), [upsampled])
    assert found.largest_difference < 2e-5


def test_a_file_need_not_return_encoder_frames(exported: Path, trained: TrainedModel) -> None:
    """E.g. sherpa-onnx's graph, which has no decoder to use them."""
    model = load_model(exported)
    model.meta = dataclasses.replace(model.meta, decoder=False)
    silent = Broken(model, lambda scores: scores._replace(encoder_out=scores.encoder_out[:, :, :0]))
    assert verify(acoustic_model(trained), silent, []).largest_difference < 1e-5
