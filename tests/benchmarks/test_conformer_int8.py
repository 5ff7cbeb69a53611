"""The Conformer in int8 with constant scales, which the benchmarks compare with, is the Conformer."""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from wenet_fusion.export.kernels.onnx_int8 import DOMAIN
from wenet_fusion.export.targets.onnx_graph import session
from wenet_fusion.model.chunking import Chunking
from wenet_fusion.model.layers.attention import RelativePositions
from wenet_fusion.trained_model import fused_model

pytest.importorskip("onnxruntime", reason="the benchmarks need onnxruntime, an optional extra")
pytest.importorskip("matplotlib", reason="pictures need matplotlib, an optional extra")
pytestmark = pytest.mark.slow
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from encoder_speed import QUICK  # noqa: E402
from parts.candidates import Builder  # noqa: E402
from parts.encoder_variants import static_conformer, write_graph  # noqa: E402
from parts.random_models import EncoderStep, Shape, conformer, fresh_state  # noqa: E402

SHAPE = Shape(Chunking(4, 2), 2)


def test_the_conformer_in_int8_is_the_conformer(tmp_path: Path) -> None:
    """With and without quantised convolutions: its frames differ from those in float32 by rounding only."""
    trained = Builder(QUICK, 0, tmp_path).model(conformer(QUICK.encoder))
    for module in trained.model.modules():
        if isinstance(module, RelativePositions):  # zeros in a fresh model
            torch.nn.init.normal_(module.key_bias)
            torch.nn.init.normal_(module.position_bias)
    noise = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, (2, 16000)).astype(np.float32))
    features = trained.model.features(noise, torch.full([2], 16000)).detach()[:, :16]
    plain, lengths = fused_model(trained).encoder, torch.full([2], SHAPE.chunking.size)
    with torch.no_grad():
        exact = EncoderStep(plain)(features, lengths, *SHAPE.chunking, fresh_state(plain, SHAPE))[0].numpy()
    layers = QUICK.encoder.layers
    for convolutions in (False, True):
        encoder, path = static_conformer(trained, 0, convolutions).encoder, tmp_path / "encoder.onnx"
        write_graph(encoder, path, [DOMAIN])
        state = {f"state_{i}": tensor for i, tensor in enumerate(fresh_state(encoder, SHAPE))}
        values = {"features": features, "lengths": lengths, **state}
        out = session(path).run(None, {name: tensor.numpy() for name, tensor in values.items()})[0]
        assert np.abs(out - exact).mean() < 0.05 * np.abs(exact).mean()
        found = Counter(node.op_type for node in onnx.load(str(path)).graph.node)
        assert found["MatMulIntegerToFloat"] == 9 * layers + 1 and found["MultiHeadAttention"] == layers
        assert found["QLinearConv"] == (2 if convolutions else 0) and found["LayerNormalization"] == 6 * layers
