"""A model in training, whose steps are measured in several precisions, with and without recomputed activations."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wenet_fusion.data.batching import BatchSize
from wenet_fusion.model.asr_model import AsrModel, ModelConfig
from wenet_fusion.model.decoder import DecoderConfig
from wenet_fusion.model.encoder_config import EncoderConfig
from wenet_fusion.model.layers.recomputation import RecomputedChain, recompute_activations
from wenet_fusion.model.layers.residual import LayerChain
from wenet_fusion.ranks import Ranks
from wenet_fusion.recipe import SpecAugmentConfig
from wenet_fusion.training.optimisation.largest_batch import made_batch
from wenet_fusion.training.optimisation.optim import OptimConfig, build_optimizer
from wenet_fusion.training.optimisation.update import Gradients
from wenet_fusion.training.training_config import Precision, TrainingConfig

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
KEPT = {"default": False, "layer inputs kept": True}  # what is kept for the backward pass -> `checkpoint_activations`
VOCABULARY = 5000
STEP = 1  # every step counts as the first, so that chunking and masks are the same
RATE = 1e-6  # so small that the weights hardly change


class Form(NamedTuple):
    """One combination of model, precision and kept activations that is timed."""

    model: str
    precision: Precision
    kept: str  # a key of KEPT

    @property
    def name(self) -> str:
        return f"{self.model}, {self.precision}, {self.kept}"

    @property
    def by_default(self) -> "Form":
        return self._replace(kept="default")


class Plan(NamedTuple):
    """A model with random weights, and its batch."""

    encoder: EncoderConfig
    decoder: DecoderConfig
    size: BatchSize
    seed: int
    wenet: Path | None = None  # folder of WeNet's package, whose model of these shapes replaces ours


class Subject:
    """A model with its optimiser and a batch; each of `ranks` adds its own batch to a step."""

    def __init__(self, plan: Plan, precisions: tuple[Precision, ...], ranks: Ranks = Ranks()) -> None:
        torch.manual_seed(plan.seed)
        self.model = AsrModel(ModelConfig(encoder=plan.encoder, decoder=plan.decoder), VOCABULARY).train()
        self._optimizer = build_optimizer(OptimConfig(learning_rate=RATE), self.model)
        configs = {precision: TrainingConfig(precision=precision) for precision in precisions}
        self._gradients = {
            precision: Gradients(self.model, config, SpecAugmentConfig(), plan.seed, ranks)
            for precision, config in configs.items()
        }
        self._batch = made_batch(plan.size, self.model.config.frontend.sample_rate, VOCABULARY)

    def call(self, precision: Precision, kept: str) -> Callable[[], None]:
        """Return a step: forward, backward, update."""
        gradients = self._gradients[precision]

        def step() -> None:
            checkpoint_activations(self.model, KEPT[kept])
            gradients.compute(STEP, [self._batch], self._optimizer, stop=False)
            gradients.apply(self._optimizer)

        return step


def checkpoint_activations(model: nn.Module, checkpointed: bool) -> None:
    """Choose whether the backward pass computes the layers again, instead of keeping their activations."""
    for module in model.modules():
        module.__class__ = LayerChain if type(module) is RecomputedChain else type(module)
    if checkpointed:
        recompute_activations(model)


def saved_bytes(model: nn.Module, step: Callable[[], None]) -> int:
    """Return the bytes that a step keeps from its forward pass to its backward pass, without the parameters."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(found.values())
