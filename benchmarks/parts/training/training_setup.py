"""A model in training, whose steps are measured in several precisions, with and without activation checkpointing."""

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
# Which activations the forward pass keeps for the backward pass: label in tables -> is activation checkpointing on?
ACTIVATIONS = {"default": False, "layer inputs kept": True}
VOCABULARY = 5000
STEP = 1  # every measured step has this number, so that all steps draw the same chunking and masks
RATE = 1e-6  # so small that the weights hardly change


class StepVariant(NamedTuple):
    """A combination of model, precision and kept activations whose steps are measured."""

    model: str
    precision: Precision
    activations: str  # a key of ACTIVATIONS

    @property
    def name(self) -> str:
        return f"{self.model}, {self.precision}, {self.activations}"

    @property
    def without_checkpointing(self) -> "StepVariant":
        return self._replace(activations="default")


class SetupSpec(NamedTuple):
    """The shapes of a model with random weights, and of its batch."""

    encoder: EncoderConfig
    decoder: DecoderConfig
    size: BatchSize
    seed: int
    wenet: Path | None = None  # folder of WeNet's package, to train WeNet's model of these shapes; None: our model


class TrainingSetup:
    """Our model with its optimiser and a batch; all ranks have the same batch."""

    def __init__(self, spec: SetupSpec, precisions: tuple[Precision, ...], ranks: Ranks = Ranks()) -> None:
        torch.manual_seed(spec.seed)
        self.model = AsrModel(ModelConfig(encoder=spec.encoder, decoder=spec.decoder), VOCABULARY).train()
        self._optimizer = build_optimizer(OptimConfig(learning_rate=RATE), self.model)
        configs = {precision: TrainingConfig(precision=precision) for precision in precisions}
        self._gradients = {
            precision: Gradients(self.model, config, SpecAugmentConfig(), spec.seed, ranks)
            for precision, config in configs.items()
        }
        self._batch = made_batch(spec.size, self.model.config.frontend.sample_rate, VOCABULARY)

    def step_function(self, precision: Precision, activations: str) -> Callable[[], None]:
        """Return a function that runs a step: forward pass, backward pass, update."""
        gradients = self._gradients[precision]

        def step() -> None:
            set_activation_checkpointing(self.model, ACTIVATIONS[activations])
            gradients.compute(STEP, [self._batch], self._optimizer, stop=False)
            gradients.apply(self._optimizer)

        return step


def set_activation_checkpointing(model: nn.Module, checkpointed: bool) -> None:
    """Turn activation checkpointing on or off. When on, the backward pass computes the layers' activations again."""
    for module in model.modules():
        module.__class__ = LayerChain if type(module) is RecomputedChain else type(module)
    if checkpointed:
        recompute_activations(model)


def saved_bytes(model: nn.Module, step: Callable[[], None]) -> int:
    """Return the bytes of the tensors, except parameters, that the forward pass keeps for the backward pass."""
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
