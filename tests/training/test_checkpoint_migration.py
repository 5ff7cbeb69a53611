"""Checkpoints of format 2 give the same model and configuration under the names of this version."""

import copy
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from wenet_fusion.config import to_yaml
from wenet_fusion.model.asr_model import AsrModel
from wenet_fusion.model.encoder_config import EncoderConfig
from wenet_fusion.recipe import RecipeConfig
from wenet_fusion.trained_model import TrainedModel, load_trained
from wenet_fusion.training.state.checkpoint import MODEL_KIND, save_atomically

CONFORMER = EncoderConfig(norm="layer", activation="swish", conv_gate="glu", positions="rel_pos")
BRANCHES = ["feed_forward_in", "attention", "convolution", "feed_forward_out"]


def old_name(name: str) -> str:
    """Return the name of a parameter in format 2."""
    for index, branch in enumerate(BRANCHES, 1):
        name = re.sub(rf"\.{branch}\.norm\.", f".norm_{index}.", name)
    name = re.sub(r"\.(feed_forward_in|attention|convolution|feed_forward_out)\.op\.", r".\1.", name)
    return name.replace(".norm_out.module.", ".norm_5.").replace(".rel_pos.", ".products.")


def old_settings(config: RecipeConfig) -> str:
    """Return a configuration as format 2 wrote it."""
    text = to_yaml(config).replace("right_padding_frames: ", "tail_frames: ").replace("    layer: conformer\n", "")
    text = text.replace("conv_gate: none", "gated: false").replace("conv_gate: glu", "gated: true")
    return text.replace("positions: rel_pos", "positions: products")


def small(encoder: EncoderConfig, recipe: RecipeConfig) -> RecipeConfig:
    """Return the tiny recipe with another kind of encoder of the same tiny sizes."""
    own = recipe.model.encoder
    sizes = {name: getattr(own, name) for name in ("dim", "layers", "heads", "feed_forward", "conv_kernel")}
    encoder = replace(encoder, **sizes, subsampling_channels=4)
    return replace(recipe, model=replace(recipe.model, encoder=encoder))


@pytest.mark.parametrize("encoder", [EncoderConfig(), CONFORMER, EncoderConfig(norm="batch")], ids=lambda e: e.norm)
def test_format_2_is_the_same_model(encoder: EncoderConfig, trained: TrainedModel, tmp_path: Path) -> None:
    config = small(encoder, trained.config)
    torch.manual_seed(0)
    model = AsrModel(config.model, 13)
    weights = copy.deepcopy(model.state_dict())
    old = {
        "kind": MODEL_KIND,
        "format": 2,
        "config_yaml": old_settings(config),
        "units": trained.tokenizer.vocabulary.tokens,
        "bpe_model": b"",
        "weights": {old_name(name): weight for name, weight in weights.items()},
        "step": 7,
        "dev_loss": 1.0,
        "dev_error_rate": 0.5,
    }
    assert any("norm_5" in name for name in old["weights"]) == (encoder.norm != "fusion")
    assert not any(".op." in name or "rel_pos" in name for name in old["weights"])
    save_atomically(old, tmp_path / "old.pt")
    migrated = load_trained(tmp_path / "old.pt")
    assert migrated.config == config and to_yaml(migrated.config) == to_yaml(config)
    loaded = migrated.model.state_dict()
    assert list(loaded) == list(weights) and all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_format_1_is_refused(tmp_path: Path) -> None:
    save_atomically({"kind": MODEL_KIND, "format": 1}, tmp_path / "old.pt")
    with pytest.raises(ValueError, match="has format 1, this version reads 3"):
        load_trained(tmp_path / "old.pt")
