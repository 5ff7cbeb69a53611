"""WeNet's model in training, in WeNet's own code, whose steps are compared with ours."""

import argparse
import math
from collections.abc import Callable

import torch
from parts.training.training_subject import RATE, VOCABULARY, Plan, Subject
from parts.training.wenet_package import import_wenet
from torch import nn

from wenet_fusion.model.asr_model import FrontendConfig
from wenet_fusion.model.losses import LossConfig
from wenet_fusion.training.optimisation.optim import OptimConfig
from wenet_fusion.training.training_config import AUTOCAST, Precision

BINS = FrontendConfig().num_mel_bins
FRAMES_PER_SECOND, SUBSAMPLING, CUT = 25, 4, 3  # of encoder frames; features in each; features dropped at the end


class WenetSubject:
    """WeNet's Conformer with its decoders, its optimiser and a batch of features.

    It has the shapes of the plan's encoder and decoder, causal convolutions and dynamic chunks.

    Raises:
        ImportError: see `import_wenet`.
    """

    def __init__(self, plan: Plan, precisions: tuple[Precision, ...]) -> None:
        torch.manual_seed(plan.seed)
        build = import_wenet("utils.init_model", plan.wenet).init_model
        self.model: nn.Module = build(argparse.Namespace(checkpoint=None, enc_init=None), settings(plan))[0].train()
        self._optimizer = torch.optim.Adam(self.model.parameters(), lr=RATE)  # as WeNet's training builds it
        self._seed = plan.seed
        rows, tokens = plan.size.rows, plan.size.tokens
        # As many encoder frames as in our model for the same duration.
        frames = SUBSAMPLING * math.ceil(plan.size.seconds * FRAMES_PER_SECOND) + CUT
        ids = 3 + torch.arange(tokens) % (VOCABULARY - 3)
        self._batch = {
            "feats": torch.randn(rows, frames, BINS),
            "feats_lengths": torch.full((rows,), frames),
            "target": ids.repeat(rows, 1),
            "target_lengths": torch.full((rows,), tokens),
            "langs": [""] * rows,
            "tasks": [""] * rows,
        }

    def call(self, precision: Precision, kept: str) -> Callable[[], None]:
        """Return a step: forward, backward, update. WeNet's model keeps all activations, whatever `kept` is."""
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


def make_subject(plan: Plan, precisions: tuple[Precision, ...]) -> Subject | WenetSubject:
    """Return the model of a plan: ours, or WeNet's if the plan has the folder of its package."""
    return Subject(plan, precisions) if plan.wenet is None else WenetSubject(plan, precisions)


def settings(plan: Plan) -> dict[str, object]:
    """Return the configuration of WeNet's U2++ Conformer with the plan's shapes, in the form of WeNet's training."""
    encoder, decoder, loss = plan.encoder, plan.decoder, LossConfig()
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
