"""The encoder layer types by name. To add one, add a file like `conformer.py` and a line to `LAYER_TYPES`."""

from collections.abc import Callable

from torch import nn

from wenet_fusion.model.encoder_config import EncoderConfig
from wenet_fusion.model.layers.conformer import build_conformer

# `encoder.layer` names one of these. A builder gets the encoder's settings and the layer's index, and returns a `LayerOp`.
LAYER_TYPES: dict[str, Callable[[EncoderConfig, int], nn.Module]] = {
    "conformer": build_conformer,
}
