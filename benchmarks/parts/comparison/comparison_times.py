"""Time a training update and a streaming step of every configuration of a size, by turns in one process.

Shapes: B utterances, N samples.
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from parts.comparison.study import CONFIGURATIONS, Configuration, Study, recipe_of
from parts.random_models import randomise_norms
from parts.timing import by_turns
from wenet_fusion_runtime.files import write_text
from wenet_fusion_runtime.model.model_file import load_model

from wenet_fusion.data.batching import BatchSize
from wenet_fusion.export.flow import export_model
from wenet_fusion.model.asr_model import AsrModel
from wenet_fusion.model.chunking import Chunking, chunking_label
from wenet_fusion.provenance import commit, processor
from wenet_fusion.recipe import RecipeConfig
from wenet_fusion.text.tokenizer import build_tokenizer
from wenet_fusion.trained_model import TrainedModel
from wenet_fusion.training.optimisation.largest_batch import made_batch
from wenet_fusion.training.optimisation.optim import build_optimizer
from wenet_fusion.training.optimisation.update import Gradients

UPDATE_ROUNDS, STEP_ROUNDS = 30, 100
TOKENS_PER_SECOND = 2


def measure_times(study: Study, size: str, data_dir: Path, output: Path) -> None:
    """Time every configuration of a size, and write the times in milliseconds to a JSON file."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        models = {item: untrained(study, size, item, data_dir) for item in CONFIGURATIONS}
        record: dict[str, Any] = {
            "parameters": {item.folder: parameters(model.model) for item, model in models.items()},
            "encoder_parameters": {item.folder: parameters(model.model.encoder) for item, model in models.items()},
            **_steps(models),
            "updates": _updates(models, study.typical_seconds),
            "machine": processor(),
            "commit": commit(Path(__file__).parent),
        }
    finally:
        torch.set_num_threads(threads)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text(output, json.dumps(record, indent=1) + "\n")


def untrained(study: Study, size: str, configuration: Configuration, data_dir: Path) -> TrainedModel:
    """Return a model with random weights and random normalisation parameters."""
    config = recipe_of(study, size, configuration, data_dir)
    tokenizer = build_tokenizer(config.tokenizer, Path())
    torch.manual_seed(0)
    model = AsrModel(config.model, len(tokenizer.vocabulary)).eval()
    randomise_norms(model)
    return TrainedModel(config, tokenizer, model, Path("random.pt"))


def parameters(model: torch.nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def _steps(models: dict[Configuration, TrainedModel]) -> dict[str, Any]:
    """Time a step of the exported file of each configuration at every chunk size, from samples to scores.

    Configurations that cannot be exported are listed in "not_exported", with the reason.
    """
    loaded, refused = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for item, trained in models.items():
            path = Path(folder) / f"{item.folder}.zip"
            try:
                export_model(trained, path)
            except ValueError as error:  # a BatchNorm that has no layer to fold into
                refused[item.folder] = shorten(str(error).replace(f"{folder}/", ""), 100)
                continue
            loaded[item.folder] = load_model(path)
    found = {}
    for chunking in next(iter(models.values())).config.training.chunking.served():
        calls = {name: _step(model, chunking) for name, model in loaded.items()}
        times = by_turns(calls, STEP_ROUNDS, 2, lambda: None)
        found[chunking_label(chunking)] = {name: timing._asdict() for name, timing in times.items()}
    return {"steps": found, "not_exported": refused}


def _step(model: Any, chunking: Chunking) -> Callable[[], None]:
    count = chunking.size * model.meta.frame_samples
    samples_BN = 0.1 * np.random.default_rng(0).standard_normal((1, count)).astype(np.float32)
    state = model.init_state(1, *chunking)

    def call() -> None:
        nonlocal state
        _, state = model.step(samples_BN, [count], *chunking, state)

    return call


def _updates(models: dict[Configuration, TrainedModel], seconds: float) -> dict[str, dict[str, float]]:
    """Time forward pass, backward pass and update on a batch of the recipe's size."""
    calls = {item.folder: _update(model.config, model.model, seconds) for item, model in models.items()}
    times = by_turns(calls, UPDATE_ROUNDS, 1, lambda: None)
    return {name: timing._asdict() for name, timing in times.items()}


def _update(config: RecipeConfig, model: AsrModel, seconds: float) -> Callable[[], None]:
    training = config.training
    rows = max(1, min(training.max_batch_rows, int(training.max_batch_seconds / seconds)))
    size = BatchSize(rows, seconds, max(1, int(TOKENS_PER_SECOND * seconds)))
    batch = made_batch(size, config.model.frontend.sample_rate, model.vocabulary_size)
    optimizer = build_optimizer(training.optim, model)
    for group in optimizer.param_groups:
        group["lr"] = 1e-6  # so small that the weights hardly change
    gradients = Gradients(model.train(), training, config.data.spec_augment, config.seed)

    def call() -> None:
        gradients.compute(1, [batch], optimizer, stop=False)
        gradients.apply(optimizer)

    return call
