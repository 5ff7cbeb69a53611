"""The encoder layer types by name. To add one, add a file like `conformer.py` and a line to `LAYER_TYPES`."""

from collections.abc import Callable

from torch import nn

from wenet_fusion.model.encoder_config import EncoderConfig
from wenet_fusion.model.layers.activation import unknown_name
from wenet_fusion.model.layers.conformer import build_conformer

# `encoder.layer` names one of these. A builder takes the settings and the layer's index, and returns a `LayerOp`.
LAYER_TYPES: dict[str, Callable[[EncoderConfig, int], nn.Module]] = {
    "conformer": build_conformer,
}


def build_layer(config: EncoderConfig, layer: int) -> nn.Module:
    """Return an encoder layer of the configured type.

    Raises:
        ValueError: the table has no such type; the message lists the types.
    """
    if config.layer not in LAYER_TYPES:
        raise ValueError(unknown_name("layer", config.layer, LAYER_TYPES))
    return LAYER_TYPES[config.layer](config, layer)
