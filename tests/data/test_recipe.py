"""The configuration of a recipe: impossible values are refused before any work, each with a remedy."""

import pytest

from wenet_fusion.config import ConfigError, config_from_mapping
from wenet_fusion.recipe import RecipeConfig

UNITS = {"tokenizer": {"units": "units.txt"}}


def problems(section, **values):
    """Return the problems of some values of a section, given by its dotted path; "": the root."""
    mapping = values
    for name in reversed(section.split(".") if section else []):
        mapping = {name: mapping}
    try:
        config_from_mapping(RecipeConfig, {**UNITS, **mapping}, "c")
    except ConfigError as error:
        return error.problems
    return ()


@pytest.mark.parametrize(
    "section, values, message",
    [
        ("", {"seed": -1}, "c: seed: -1 must be at least 0"),
        ("training", {"num_workers": -1}, "c: training.num_workers: -1 must be at least 0; 0 loads batches in"),
        ("training", {"validate_interval_steps": -5}, "c: training.validate_interval_steps: -5 is below 0"),
        ("training", {"frozen_statistics_steps": -2}, "c: training.frozen_statistics_steps: -2 must lie between"),
        ("training", {"frozen_statistics_steps": 11, "max_steps": 10}, "c: training.frozen_statistics_steps: 11 must"),
        ("training", {"max_batch_seconds": 0.4}, "c: training.max_batch_seconds: 0.4 must be at least 1"),
        ("training", {"max_batch_seconds": float("inf")}, "c: training.max_batch_seconds: expected a number"),
        ("model.frontend", {"hop_ms": 0.01}, "c: model.frontend.hop_ms: 0.01 looks like seconds; give"),
        ("model.frontend", {"window_ms": 0.025, "hop_ms": 0.01}, "c: model.frontend.window_ms: 0.025 looks"),
        ("model", {"encoder": {"dim": 65, "heads": 5}, "decoder": {"heads": 5}}, "c: model.encoder.dim: 65 is odd"),
    ],
)  # fmt: skip
def test_values_that_cannot_work(section, values, message):
    found = problems(section, **values)
    assert any(problem.startswith(message) for problem in found), found


def test_values_at_the_bounds_are_accepted():
    assert problems("", seed=0) == ()
    assert (
        problems("training", num_workers=0, validate_interval_steps=0, frozen_statistics_steps=10, max_steps=10) == ()
    )
    assert problems("training", max_batch_seconds=1) == ()
    assert problems("model.frontend", window_ms=2.0, hop_ms=1.0) == ()
    without = {"layers": 0, "reverse_layers": 0}
    loss = {"ctc_weight": 1.0, "reverse_weight": 0.0}
    assert problems("model", encoder={"dim": 65, "heads": 5}, decoder=without, loss=loss) == ()
