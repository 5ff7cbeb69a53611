"""Encoders with random weights as a stream steps them: ours, the LayerNorm Conformer, what lies between. Knows no engine.

Shapes: B streams, T feature frames, F mel bins, N rows, D width.
"""

from dataclasses import replace
from pathlib import Path
from typing import List, NamedTuple, Tuple

import torch
from torch import Tensor, nn

from wenet_fusion.chunking import Chunking, ChunkingConfig
from wenet_fusion.deployment import fused_model
from wenet_fusion.models.asr_model import AsrModel, LossConfig, ModelConfig
from wenet_fusion.models.decoder import DecoderConfig
from wenet_fusion.models.encoder import EncoderConfig, EncoderState, LayerState
from wenet_fusion.nn.attention import CachedAttention
from wenet_fusion.nn.norm import norms
from wenet_fusion.nn.position_bias import PositionBias
from wenet_fusion.recipe import RecipeConfig, TrainedModel
from wenet_fusion.text.tokenizer import TokenizerConfig, restore_tokenizer
from wenet_fusion.training.trainer import TrainingConfig
from wenet_fusion_runtime.units import RESERVED

NO_DECODER = DecoderConfig(layers=0, reverse_layers=0)


def conformer(config: EncoderConfig) -> EncoderConfig:
    """The LayerNorm Conformer of the same shape, as WeNet builds it: 256 channels in front, like its width."""
    return replace(
        config, norm="layer", activation="swish", gated=True, positions="products", subsampling_channels=config.dim
    )


def random_model(
    encoder: EncoderConfig, chunkings: list[Chunking], vocabulary: int, seed: int, decoder: DecoderConfig = NO_DECODER
) -> TrainedModel:
    """A model with random weights, and norms whose statistics are not trivial, that serves the chunkings."""
    units = [*RESERVED, *(f"▁{number}" for number in range(vocabulary - len(RESERVED)))]
    loss = LossConfig() if decoder.layers else LossConfig(ctc_weight=1.0, reverse_weight=0.0)
    config = RecipeConfig(
        tokenizer=TokenizerConfig(units="units.txt"),
        model=ModelConfig(encoder=encoder, decoder=decoder, loss=loss),
        training=TrainingConfig(
            chunking=ChunkingConfig(
                sizes=tuple(chunking.size for chunking in chunkings),
                left_context_frames=tuple({chunking.size * chunking.left for chunking in chunkings}),
            )
        ),
    )
    torch.manual_seed(seed)
    model = AsrModel(config.model, vocabulary).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for norm in norms(model):
            norm.weight.uniform_(0.5, 1.5, generator=generator)  # a fresh deep encoder is the identity
            norm.running_var.uniform_(0.5, 2.0, generator=generator)
            norm.running_mean.normal_(0, 0.3, generator=generator)
        for module in model.modules():
            if isinstance(module, PositionBias):
                module.table.normal_(0, 1, generator=generator)
    tokenizer = restore_tokenizer(config.tokenizer, units, b"", "random units")
    return TrainedModel(config, tokenizer, model, Path("random.pt"))


class SeparateProjections(nn.Module):
    """Queries, keys and values by a product each, as WeNet computes them: (N, D) -> (N, 3D)."""

    def __init__(self, qkv: nn.Linear):
        super().__init__()
        dim = qkv.in_features
        parts = zip(qkv.weight.detach().split(dim), qkv.bias.detach().split(dim))
        self.query, self.key, self.value = (_linear(weight, bias) for weight, bias in parts)

    def forward(self, x_ND: Tensor) -> Tensor:
        return torch.cat([self.query(x_ND), self.key(x_ND), self.value(x_ND)], dim=1)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.size(1), weight.size(0))
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)
    return linear


def separate_projections(model: nn.Module) -> None:
    """Undoes the one q/k/v product of every fused attention below `model`."""
    for module in model.modules():
        if isinstance(module, CachedAttention):
            module.qkv = SeparateProjections(module.qkv)


def split_qkv_model(trained: TrainedModel):
    model = fused_model(trained)
    separate_projections(model)
    return model


class StepShape(NamedTuple):
    """What one call of a step gets."""

    chunking: Chunking
    batch: int

    @property
    def rows(self) -> int:
        return self.batch * self.chunking.size


class EncoderStep(nn.Module):
    """The encoder alone: features (B, T, F), lengths and a flat state in, frames (B, T / 4, D) and the next state out."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(
        self, features: Tensor, lengths: Tensor, chunk: int, left: int, state: List[Tensor]
    ) -> Tuple[Tensor, List[Tensor]]:
        layers: List[LayerState] = []
        for i in range(3, len(state), 2):
            layers.append(LayerState(state[i], state[i + 1]))
        nested = EncoderState(state[0], [state[1], state[2]], layers)
        out = self.encoder(features, lengths, Chunking(chunk, left), nested)
        flat = [out.state.position]
        flat.extend(out.state.subsampling)
        for layer in out.state.layers:
            flat.append(layer.keys_values)
            flat.append(layer.conv)
        return out.frames_BTD, flat
