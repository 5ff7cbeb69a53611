"""Settings of the encoder: its size, its layers, and the differences between FusionFormer and Conformer."""

from dataclasses import dataclass
from typing import ClassVar, Optional

from wenet_fusion.model.layers.activation import ACTIVATIONS, FREE, unknown_name
from wenet_fusion.model.layers.attention import Positions
from wenet_fusion.model.layers.convolution import ConvGate
from wenet_fusion.model.layers.norm import NormKind

# Encoders up to this depth train fastest if the last norm of a branch starts with gamma 1, deeper ones with gamma 0.
SHALLOW_LAYERS = 6


@dataclass(frozen=True)
class EncoderConfig:
    """Settings of the encoder; the defaults are a FusionFormer of 12 layers.

    The last five settings give other models, for comparisons. A Conformer as WeNet trains it has `norm: layer`,
    `activation: swish`, `conv_gate: glu` and `positions: rel_pos`.

    >>> EncoderConfig(activation="gleu").problems()[0].endswith("(did you mean gelu?)")
    True
    """

    RENAMED_KEYS: ClassVar[dict[str, str]] = {"gated": "conv_gate: glu or conv_gate: none"}

    dim: int = 256  # width of an encoder frame
    layers: int = 12  # encoder layers
    heads: int = 4  # attention heads; must divide dim
    feed_forward: int = 2048  # hidden width of the feed-forward branches
    conv_kernel: int = 8  # kernel size of the causal convolution in frames, the current one included
    subsampling_channels: int = 64  # channels of the convolutions that subsample features by 4
    max_distance: int = 64  # largest distance, in frames, with its own position bias; longer distances share that bias
    dropout: float = 0.1  # dropout probability of every branch
    residual_gamma: Optional[float] = None  # initial scale of a branch's last norm; null: 1 if layers <= 6, otherwise 0
    norm: NormKind = "fusion"  # placement of norms; fusion: a BatchNorm after every linear and convolution layer
    activation: str = "relu"  # activation of the feed-forward and convolution branches
    conv_gate: ConvGate = "none"  # glu: gate the convolution branch, as a Conformer does; none: a ReLU instead
    positions: Positions = "bias"  # bias: a learned bias per distance and head; rel_pos: as in WeNet's Conformer
    layer: str = "conformer"  # type of the encoder layers

    @property
    def fusible(self) -> bool:
        """True if an exported encoder has no norm and no activation costlier than ReLU."""
        return self.norm in ("fusion", "none") and self.activation == FREE and self.conv_gate == "none"

    @property
    def gamma(self) -> float:
        """Initial scale of the last norm of every branch."""
        if self.residual_gamma is not None:
            return self.residual_gamma
        return 1.0 if self.layers <= SHALLOW_LAYERS else 0.0

    def problems(self) -> list[str]:
        """Return one line for each invalid setting."""
        sizes = ("dim", "layers", "heads", "feed_forward", "conv_kernel", "subsampling_channels", "max_distance")
        found = [f"{name}: {getattr(self, name)} must be at least 1" for name in sizes if getattr(self, name) < 1]
        if self.heads >= 1 and self.dim % self.heads:
            found.append(f"dim: {self.dim} is not a multiple of heads: {self.heads}")
        if not 0 <= self.dropout < 1:
            found.append(f"dropout: {self.dropout} is not in [0, 1)")
        if self.activation not in ACTIVATIONS:
            found.append(unknown_name("activation", self.activation, ACTIVATIONS))
        return found
