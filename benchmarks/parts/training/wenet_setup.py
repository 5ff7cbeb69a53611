"""WeNet's model in training with WeNet's own code, to compare its steps with ours."""

import argparse
import math
from collections.abc import Callable

import torch
from parts.training.training_setup import RATE, VOCABULARY, SetupSpec, TrainingSetup
from parts.training.wenet_package import import_wenet
from torch import nn

from wenet_fusion.model.asr_model import FrontendConfig
from wenet_fusion.model.losses import LossConfig
from wenet_fusion.training.optimisation.optim import OptimConfig
from wenet_fusion.training.training_config import AUTOCAST, Precision

BINS = FrontendConfig().num_mel_bins
FRAMES_PER_SECOND, SUBSAMPLING = 25, 4  # encoder frames per second, feature frames per encoder frame
CUT = 3  # feature frames that WeNet's subsampling drops at the end


class WenetTrainingSetup:
    """WeNet's Conformer with its decoders, its optimiser and a batch of features.

    It has the shapes of the spec's encoder and decoder, causal convolutions and dynamic chunks.

    Raises:
        ImportError: see `import_wenet`.
    """

    def __init__(self, spec: SetupSpec, precisions: tuple[Precision, ...]) -> None:
        torch.manual_seed(spec.seed)
        build = import_wenet("utils.init_model", spec.wenet).init_model
        self.model: nn.Module = build(argparse.Namespace(checkpoint=None, enc_init=None), settings(spec))[0].train()
        self._optimizer = torch.optim.Adam(self.model.parameters(), lr=RATE)  # as WeNet's training builds it
        self._seed = spec.seed
        rows, tokens = spec.size.rows, spec.size.tokens
        # As many encoder frames as in our model for the same duration.
        frames = SUBSAMPLING * math.ceil(spec.size.seconds * FRAMES_PER_SECOND) + CUT
        ids = 3 + torch.arange(tokens) % (VOCABULARY - 3)
        self._batch = {
            "feats": torch.randn(rows, frames, BINS),
            "feats_lengths": torch.full((rows,), frames),
            "target": ids.repeat(rows, 1),
            "target_lengths": torch.full((rows,), tokens),
            "langs": [""] * rows,
            "tasks": [""] * rows,
        }

    def call(self, precision: Precision, activations: str) -> Callable[[], None]:
        """Return a function that runs a step; see `TrainingSetup.call`. WeNet's model always keeps all activations."""
        dtype, parameters = AUTOCAST[precision], list(self.model.parameters())

        def step() -> None:
            torch.manual_seed(self._seed)  # every step draws the same chunks
            self._optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
                loss = self.model(self._batch, torch.device("cpu"))["loss"]
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, OptimConfig().clip_norm)
            self._optimizer.step()

        return step


def make_setup(spec: SetupSpec, precisions: tuple[Precision, ...]) -> TrainingSetup | WenetTrainingSetup:
    """Set up our model, or WeNet's if the spec names the folder of WeNet's package."""
    return TrainingSetup(spec, precisions) if spec.wenet is None else WenetTrainingSetup(spec, precisions)


def settings(spec: SetupSpec) -> dict[str, object]:
    """Return the configuration of WeNet's U2++ Conformer with the spec's shapes, as WeNet's training reads it."""
    encoder, decoder, loss = spec.encoder, spec.decoder, LossConfig()
    return {
        "input_dim": BINS,
        "output_dim": VOCABULARY,
        "encoder": "conformer",
        "encoder_conf": {
            "output_size": encoder.dim,
            "attention_heads": encoder.heads,
            "linear_units": encoder.feed_forward,
            "num_blocks": encoder.layers,
            "dropout_rate": encoder.dropout,
            "positional_dropout_rate": encoder.dropout,
            "attention_dropout_rate": encoder.dropout,
            "input_layer": "conv2d",
            "cnn_module_kernel": encoder.conv_kernel,
            "cnn_module_norm": "layer_norm",
            "causal": True,
            "use_dynamic_chunk": True,
        },
        "decoder": "bitransformer",
        "decoder_conf": {
            "attention_heads": decoder.heads,
            "linear_units": decoder.feed_forward,
            "num_blocks": decoder.layers,
            "r_num_blocks": decoder.reverse_layers,
            "dropout_rate": decoder.dropout,
            "positional_dropout_rate": decoder.dropout,
            "self_attention_dropout_rate": decoder.dropout,
            "src_attention_dropout_rate": decoder.dropout,
        },
        "model_conf": {
            "ctc_weight": loss.ctc_weight,
            "lsm_weight": loss.label_smoothing,
            "reverse_weight": loss.reverse_weight,
        },
        "tokenizer_conf": {"special_tokens": {"<blank>": 0, "<unk>": 1, "<sos>": 2, "<eos>": 2}},
        "dataset_conf": {},
    }
