"""The encoder layer type `conformer`: the layer of a FusionFormer, or of a Conformer (arXiv 2005.08100)."""

from torch import nn

from wenet_fusion.model.encoder_config import EncoderConfig
from wenet_fusion.model.layers.attention import CachedAttention
from wenet_fusion.model.layers.convolution import CausalConvolution
from wenet_fusion.model.layers.feed_forward import FeedForward
from wenet_fusion.model.layers.norm import branch_norm
from wenet_fusion.model.layers.residual import LayerChain, Pointwise, Residual


def build_conformer(config: EncoderConfig, layer: int) -> LayerChain:
    """Return a layer of residual branches: half feed-forward, attention, convolution, half feed-forward.

    Args:
        config: the encoder's settings.
        layer: index of the layer.
    """
    dim, dropout, gamma, batch_norm = config.dim, config.dropout, config.gamma, config.norm == "fusion"

    def branch(op: nn.Module) -> Residual:
        return Residual(op, branch_norm(config.norm, dim))

    def feed_forward() -> FeedForward:
        return FeedForward(dim, config.feed_forward, dropout, gamma, batch_norm, config.activation)

    ops = {
        "feed_forward_in": branch(feed_forward()),
        "attention": branch(CachedAttention(dim, config.heads, dropout, gamma, batch_norm, config.positions, layer)),
        "convolution": branch(
            CausalConvolution(dim, config.conv_kernel, dropout, gamma, config.norm, config.activation, config.conv_gate)
        ),
        "feed_forward_out": branch(feed_forward()),
    }
    if config.norm in ("layer", "batch"):
        return LayerChain({**ops, "norm_out": Pointwise(branch_norm(config.norm, dim))})
    return LayerChain(ops)
