"""Models with random weights, and the step of an encoder in a stream.

Shapes: B streams, T feature frames, F mel bins, N rows, D width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from wenet_fusion_runtime.results.vocabulary import RESERVED

from wenet_fusion.model.asr_model import AsrModel, ModelConfig
from wenet_fusion.model.chunking import FULL_CONTEXT, Chunking, ChunkingConfig, chunking_label
from wenet_fusion.model.ctc import BLANK
from wenet_fusion.model.decoder import DecoderConfig
from wenet_fusion.model.encoder import Encoder
from wenet_fusion.model.encoder_config import EncoderConfig
from wenet_fusion.model.encoder_state import flatten, part_sizes, unflatten
from wenet_fusion.model.layers.attention import CachedAttention
from wenet_fusion.model.layers.norm import norms
from wenet_fusion.model.layers.positions.position_bias import PositionBias
from wenet_fusion.model.losses import LossConfig
from wenet_fusion.recipe import RecipeConfig
from wenet_fusion.text.tokenizer import TokenizerConfig, restore_tokenizer
from wenet_fusion.trained_model import TrainedModel
from wenet_fusion.training.training_config import TrainingConfig

NO_DECODER = DecoderConfig(layers=0, reverse_layers=0)


class Shape(NamedTuple):
    """The shape of one step: a chunk from each of B streams."""

    chunking: Chunking
    batch: int

    @property
    def label(self) -> str:
        return f"{chunking_label(self.chunking)} x {self.batch}"

    @property
    def cached(self) -> int:
        """The number of past frames in the attention cache."""
        return self.chunking.size * self.chunking.left


def conformer(config: EncoderConfig) -> EncoderConfig:
    """Return the configuration of a LayerNorm Conformer of the same shape. As in WeNet's Conformer, there are as many
    subsampling channels as the encoder is wide.
    """
    return replace(
        config, norm="layer", activation="swish", conv_gate="glu", positions="rel_pos", subsampling_channels=config.dim
    )


def random_model(
    encoder: EncoderConfig,
    chunkings: Sequence[Chunking],
    vocabulary: int,
    seed: int,
    decoder: DecoderConfig = NO_DECODER,
) -> TrainedModel:
    """Return a model with random weights for `chunkings`. Its norms are random too, because a deep encoder with newly
    initialised norms is nearly the identity.
    """
    left_context = tuple(sorted({chunking.size * chunking.left for chunking in chunkings}))
    sizes = tuple(sorted(chunking.size for chunking in chunkings))
    loss = LossConfig() if decoder.layers else LossConfig(ctc_weight=1.0, reverse_weight=0.0)
    config = RecipeConfig(
        tokenizer=TokenizerConfig(units="units.txt", split_with_space=True),
        model=ModelConfig(encoder=encoder, decoder=decoder, loss=loss),
        training=TrainingConfig(chunking=ChunkingConfig(sizes=sizes, left_context_frames=left_context)),
    )
    torch.manual_seed(seed)
    model = AsrModel(config.model, vocabulary).eval()
    randomise_norms(model)
    units = [*RESERVED, *(f"word{number}" for number in range(vocabulary - len(RESERVED)))]
    tokenizer = restore_tokenizer(config.tokenizer, units, b"", "random units")
    return TrainedModel(config, tokenizer, model, Path("random.pt"))


@torch.no_grad()
def randomise_norms(model: AsrModel) -> None:
    """Give norms and position biases random values in the range of trained ones, in place."""
    for norm in norms(model):
        norm.weight.uniform_(0.5, 1.5)
        norm.running_var.uniform_(0.5, 2.0)
    for module in model.modules():
        if isinstance(module, PositionBias):
            module.table.normal_(0, 1)


@torch.no_grad()
def sharpen(trained: TrainedModel, samples: Tensor, blank_share: float, sharpness: float) -> None:
    """Change the CTC head of a random model in place so that its posteriors are peaked and mostly blank, as after
    training. The scores of a random head are nearly equal. On such scores a search does far more or far less work
    than on those of a trained head.

    Args:
        samples: (N,) audio like the audio to decode; the head is fitted to its encoder frames.
        blank_share: share of the frames in which blank is the most probable token.
        sharpness: standard deviation of the logits in nats.
    """
    model, head = trained.model, trained.model.ctc.linear
    features = model.features(samples.unsqueeze(0), torch.tensor([samples.numel()])).flatten(0, 1)
    model.cmvn.mean += features.mean(0)
    model.cmvn.inverse_std /= features.std(0)
    frames = model.encode(samples.unsqueeze(0), torch.tensor([samples.numel()]), FULL_CONTEXT).frames_BTD[0]
    head.weight.normal_(0, sharpness * head.in_features**-0.5).div_(frames.std(0) + 1e-3)
    head.weight[: len(RESERVED)] = 0.0
    head.bias.copy_(-head.weight @ frames.mean(0))
    head.bias[1 : len(RESERVED)] = -1e3
    best = head(frames)[:, len(RESERVED) :].max(dim=1).values
    head.bias[BLANK] = best.quantile(blank_share)


class SeparateProjections(nn.Module):
    """Computes queries, keys and values with one matrix product each, like WeNet: (N, D) -> (N, 3D)."""

    def __init__(self, qkv: nn.Linear):
        super().__init__()
        parts = zip(qkv.weight.detach().chunk(3), qkv.bias.detach().chunk(3))
        self.query, self.key, self.value = (_linear(weight, bias) for weight, bias in parts)

    def forward(self, x_ND: Tensor) -> Tensor:
        return torch.cat([self.query(x_ND), self.key(x_ND), self.value(x_ND)], dim=-1)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.size(1), weight.size(0))
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)
    return linear


def separate_projections(encoder: Encoder) -> Encoder:
    """Split the joint matrix product for queries, keys and values of every attention, in place."""
    for module in encoder.modules():
        if isinstance(module, CachedAttention):
            module.qkv = SeparateProjections(module.qkv)
    return encoder


class EncoderStep(nn.Module):
    """A step of the encoder alone: features (B, T, F), lengths and a flat state -> frames (B, T / 4, D) and the next
    state.
    """

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.sizes = part_sizes(encoder.init_state(1, 0))

    def forward(
        self, features: Tensor, lengths: Tensor, chunk: int, left: int, state: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        out = self.encoder(features, lengths, Chunking(chunk, left), unflatten(state, self.sizes))
        return out.frames_BTD, flatten(out.state)


def fresh_state(encoder: nn.Module, shape: Shape) -> list[Tensor]:
    """Return the flat state of streams before any audio."""
    return flatten(encoder.init_state(shape.batch, shape.cached))


class LinearLayers(nn.Module):
    """The linear layers of an encoder alone; each gets an input of the same size as in a step."""

    def __init__(self, layers: Sequence[nn.Module]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        outputs: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            outputs.append(layer(inputs[i]))
        return outputs
