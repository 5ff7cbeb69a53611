"""WeNet's model in training with WeNet's own code, to compare its steps with ours."""

import argparse
import math
from collections.abc import Callable

import torch
from parts.training.training_setup import RATE, VOCABULARY, SetupSpec, TrainingSetup
from parts.training.wenet_package import import_wenet
from parts.wenet_models import BINS, model_settings
from torch import nn

from wenet_fusion.training.optimisation.optim import OptimConfig
from wenet_fusion.training.training_config import AUTOCAST, Precision

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
        record = model_settings(spec.encoder, spec.decoder, VOCABULARY)
        self.model: nn.Module = build(argparse.Namespace(checkpoint=None, enc_init=None), record)[0].train()
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

    def step_function(self, precision: Precision, activations: str) -> Callable[[], None]:
        """Return a function that runs a step, as `TrainingSetup` does.

        WeNet's model keeps all activations, whatever `activations` is.
        """
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
