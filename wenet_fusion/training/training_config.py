"""The settings of a training run."""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch

from wenet_fusion.model.chunking import ChunkingConfig
from wenet_fusion.training.optimisation.freezing import ALWAYS, FreezeConfig
from wenet_fusion.training.optimisation.optim import OptimConfig
from wenet_fusion.training.progress.logger_protocol import LoggerName
from wenet_fusion.training.state.run_files import Score

Precision = Literal["float32", "bfloat16", "float16"]
# The dtype that autocast uses for matrix products; None: no autocast.
AUTOCAST: dict[Precision, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of a training run: its length, its batches and its files.

    >>> TrainingConfig(max_steps=1500, max_batch_seconds=40.0).problems()
    []
    >>> TrainingConfig(accumulate=0).problems()
    ['accumulate: 0 must be at least 1']
    """

    max_steps: int = 100_000  # updates of the weights
    max_batch_seconds: float = 400.0  # largest batch of a rank in seconds of audio, padding included
    max_batch_rows: int = 200  # largest number of utterances in a batch of a rank
    accumulate: int = 1  # batches per update; all their utterances count equally
    checkpoint_activations: bool = False  # keep only the inputs of encoder layers: less memory, more time
    precision: Precision = "float32"  # dtype of matrix products; norms, losses and weights are always float32
    frozen_statistics_steps: int = 0  # number of last updates with constant BatchNorm statistics; -1: all updates
    average_decay: float = 0.0  # decay of a moving average of the weights, which is validated and saved; 0: no average
    save_interval_steps: int = 500  # updates between two saves of the training state; validations save it, too
    validate_interval_steps: int = 0  # updates between two validations; 0: validate after every epoch
    dev_ctm: str = ""  # CTM file with word times of the dev list, to measure emission delays; empty: do not measure
    save_in_background: bool = False  # save in a thread if save_interval_steps >= 10; needs memory for a state's copy
    keep_checkpoints: int = 30  # newest step_*.pt files to keep
    keep_best_checkpoints: int = 0  # best step_*.pt files to keep in addition
    best_by: Score = "error_rate"  # dev score that ranks checkpoints; the other score breaks ties
    check_largest_batch: bool = True  # try the largest batch before training, to see whether it fits into memory
    loggers: tuple[LoggerName, ...] = ("tensorboard",)  # loggers in addition to train_log.jsonl
    num_workers: int = 1  # processes that load batches; 0: load them in the training process
    chunking: ChunkingConfig = field(default_factory=ChunkingConfig)  # dynamic chunk training
    optim: OptimConfig = field(default_factory=OptimConfig)  # optimiser
    freeze: FreezeConfig = field(default_factory=FreezeConfig)  # part of the encoder to freeze

    def problems(self) -> list[str]:
        """Return one message for each invalid value."""
        names = ("max_steps", "max_batch_rows", "accumulate", "save_interval_steps", "keep_checkpoints")
        found = [f"{name}: {getattr(self, name)} must be at least 1" for name in names if getattr(self, name) < 1]
        seconds, frozen = self.max_batch_seconds, self.frozen_statistics_steps
        if not 1 <= seconds < math.inf:
            found.append(f"max_batch_seconds: {seconds} must be at least 1 and finite; 40 suits a small CPU")
        if not ALWAYS <= frozen <= self.max_steps:
            found.append(f"frozen_statistics_steps: {frozen} must lie between 0 and max_steps: {self.max_steps}, or -1")
        if not 0 <= self.average_decay < 1:
            found.append(f"average_decay: {self.average_decay} is not in [0, 1); 0: no average, 0.999 is usual")
        if self.keep_best_checkpoints < 0:
            found.append(f"keep_best_checkpoints: {self.keep_best_checkpoints} is below 0; 0 keeps the newest only")
        if self.num_workers < 0:
            found.append(f"num_workers: {self.num_workers} must be at least 0; 0 loads batches in the training process")
        if self.validate_interval_steps < 0:
            found.append(f"validate_interval_steps: {self.validate_interval_steps} is below 0; 0: after every epoch")
        return found

    def has_frozen_statistics(self, step: int) -> bool:
        """Return whether all BatchNorms use constant statistics in this update."""
        frozen = self.frozen_statistics_steps
        return frozen == ALWAYS or step > self.max_steps - frozen
