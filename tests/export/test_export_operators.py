"""Operators of the exported step: no norm, no costly activation, none hidden."""

from pathlib import Path

import pytest
import torch
from conftest import changed
from torch import nn
from wenet_fusion_runtime.model.model_file import load_model

from wenet_fusion.export.flow import export_model
from wenet_fusion.export.targets.torchscript import reloaded, script, step_graph
from wenet_fusion.model.operators import COSTLY_ACTIVATIONS, NORM_OPERATORS, matching, operators
from wenet_fusion.trained_model import TrainedModel

# --- same tokens


PLANTED = {
    "layer_norm": lambda: nn.LayerNorm(16),
    "group_norm": lambda: nn.GroupNorm(2, 16),
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


def test_the_step_runs_no_norm_and_no_costly_activation(exported: Path, trained: TrainedModel) -> None:
    counts = operators(step_graph(load_model(exported)))
    assert counts["aten::linear"] and counts["aten::conv2d"] and counts["aten::relu"]
    assert matching(counts, NORM_OPERATORS + COSTLY_ACTIVATIONS) == {}
    assert matching(operators(reloaded(script(trained)).rescore.inlined_graph), NORM_OPERATORS), (
        "the decoder keeps its LayerNorm"
    )


@pytest.mark.parametrize("name", list(PLANTED))
def test_a_planted_operator_is_detected_and_not_exported(name: str, trained: TrainedModel, tmp_path: Path) -> None:
    planted = changed(
        trained, lambda model: setattr(model.encoder.layers[1].feed_forward_in.op, "dropout", PLANTED[name]())
    )
    path = tmp_path / "model.pt"
    with pytest.raises(ValueError, match=f"{path} is not kept: its step still runs .*aten::{name}"):
        export_model(planted, path)
    assert list(tmp_path.iterdir()) == []


def test_calls_that_hide_operators_are_refused_and_gone_from_a_reloaded_module() -> None:
    class Inner(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(x)

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = Inner(), Inner()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x))

    with torch.jit.optimized_execution(False):  # as in the runtime, so methods are not optimised
        torch.jit.script(Outer())(torch.zeros(1))
    another = torch.jit.script(nn.Sequential(Outer()))
    with pytest.raises(ValueError, match="the graph still calls forward"):
        operators(another.inlined_graph)
    assert operators(reloaded(another).inlined_graph) == {"aten::tanh": 2}


def test_a_batch_norm_that_cannot_be_folded_is_named(trained: TrainedModel, tmp_path: Path) -> None:
    planted = changed(
        trained, lambda model: setattr(model.encoder.layers[1].attention.op, "dropout", nn.BatchNorm1d(16))
    )
    with pytest.raises(ValueError, match="cannot fold encoder.layers.1.attention.op.dropout"):
        export_model(planted, tmp_path / "model.pt")
    assert list(tmp_path.iterdir()) == []
