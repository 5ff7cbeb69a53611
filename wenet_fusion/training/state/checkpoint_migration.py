"""Convert checkpoints of format 2 to format 3: rename parameters and settings.

Format 3, the current one, introduced the names `op` and `norm` for parts of the encoder's branches, and the settings
`conv_gate`, `rel_pos` and `right_padding_frames`. Format 1 cannot be read: its position biases had a table per layer.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

FORMAT = 3

_LAYER = r"^encoder\.layers\.(\d+)\."
_BRANCHES = "feed_forward_in", "attention", "convolution", "feed_forward_out"
# Names of parameters in format 2 -> names in format 3, applied in order.
_PARAMETERS = [
    (rf"{_LAYER}attention\.products\.", r"encoder.layers.\1.attention.rel_pos."),
    (rf"{_LAYER}({'|'.join(_BRANCHES)})\.", r"encoder.layers.\1.\2.op."),
    *((rf"{_LAYER}norm_{i}\.", rf"encoder.layers.\1.{branch}.norm.") for i, branch in enumerate(_BRANCHES, 1)),
    (rf"{_LAYER}norm_5\.", r"encoder.layers.\1.norm_out.module."),
]
# Lines of the configuration in format 2 -> lines in format 3.
_SETTINGS = [
    (r"^    tail_frames: ", "    right_padding_frames: "),
    (r"^    gated: true$", "    conv_gate: glu"),
    (r"^    gated: false$", "    conv_gate: none"),
    (r"^    positions: products$", "    positions: rel_pos"),
    (r"^(    positions: .*)$", "\\1\n    layer: conformer"),
]
# Settings that earlier versions of format 3 lacked, with their implicit value, and the line to insert them after.
_LATER_SETTINGS = [("  special_tokens: spell", r"^tokenizer:\n"), ("  precision: float32", r"^  accumulate: .*\n")]


def migrate(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a checkpoint in this version's format; unchanged if its format cannot be read.

    Args:
        content: content of the file of a model checkpoint or a training state.
    """
    content = dict(content)
    if isinstance(content.get("rng"), Tensor):  # an earlier version's state of its only rank
        content["rng"] = [content["rng"]]
    if content.get("format") == FORMAT and isinstance(content.get("config_yaml"), str):
        return {**content, "config_yaml": _with_later_settings(content["config_yaml"])}
    if content.get("format") != 2:
        return content
    return {
        **content,
        "format": FORMAT,
        "config_yaml": _with_later_settings(migrate_settings(content["config_yaml"])),
        "weights": migrate_parameters(content["weights"]),
    }


def migrate_settings(config_yaml: str) -> str:
    """Return the configuration of a format 2 checkpoint with this version's settings.

    >>> migrate_settings("  frontend:\\n    tail_frames: 4\\n")
    '  frontend:\\n    right_padding_frames: 4\\n'
    """
    for pattern, replacement in _SETTINGS:
        config_yaml = re.sub(pattern, replacement, config_yaml, flags=re.MULTILINE)
    return config_yaml


def _with_later_settings(config_yaml: str) -> str:
    """Add settings that earlier versions of this format lacked, with their implicit value."""
    for setting, after in _LATER_SETTINGS:
        if f"\n{setting.partition(':')[0]}: " not in config_yaml:
            config_yaml = re.sub(after, rf"\g<0>{setting}\n", config_yaml, flags=re.MULTILINE)
    return config_yaml


def migrate_parameters(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a format 2 checkpoint under this version's names, in the same order.

    >>> import torch
    >>> list(migrate_parameters({"encoder.layers.0.attention.out.linear.weight": torch.zeros(1)}))
    ['encoder.layers.0.attention.op.out.linear.weight']
    """
    return {_renamed(name): weight for name, weight in weights.items()}


def _renamed(name: str) -> str:
    for pattern, replacement in _PARAMETERS:
        name = re.sub(pattern, replacement, name)
    return name
