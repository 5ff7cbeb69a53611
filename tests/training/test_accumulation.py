"""Gradient accumulation: an update from two batches uses the mean of their gradients."""

import copy
import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import randomise, tiny_recipe
from support.model.batches import joined, random_batch
from support.model.runs import start, with_training
from support.model.tones import tone_recipe

from wenet_fusion.data.augmentation.feature_masks import SpecAugmentConfig, feature_masks
from wenet_fusion.data.batch import Batch
from wenet_fusion.data.batching import epoch_batches
from wenet_fusion.model.asr_model import AsrModel
from wenet_fusion.model.chunking import draw_chunking
from wenet_fusion.model.layers.norm import freeze_statistics, norms
from wenet_fusion.model.layers.subsampling import FACTOR
from wenet_fusion.recipe import RecipeConfig
from wenet_fusion.training.optimisation.optim import OptimConfig
from wenet_fusion.training.optimisation.update import Gradients
from wenet_fusion.training.trainer import Trainer

RATE = 0.5
MASKS = SpecAugmentConfig(2, 10, 2, 6, 0.5)


@pytest.fixture(scope="module")
def recipe(tiny_units: Path) -> RecipeConfig:
    """Each update takes two batches, with masks, without dropout and clipping."""
    optim = OptimConfig(learning_rate=RATE, warmup_steps=1, clip_norm=1e9)
    recipe = dataclasses.replace(tone_recipe(tiny_recipe(tiny_units)), seed=0)  # whose batches draw two chunkings
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, spec_augment=MASKS))
    return with_training(recipe, max_steps=1, accumulate=2, max_batch_rows=4, max_batch_seconds=60.0, optim=optim)


def gradient(trainer: Trainer, model: AsrModel, index: int) -> dict[str, torch.Tensor]:
    """Return the gradient of the `index`-th batch of the first update, computed beside the trainer."""
    config, seed, data = trainer.config, trainer.fingerprint.seed, trainer.train_data
    plan = epoch_batches(data.seconds, config.max_batch_seconds, config.max_batch_rows, seed, epoch=0)
    batch = data.batch(plan[index], epoch=0)
    model = copy.deepcopy(model).train()
    chunking = draw_chunking(config.chunking, random.Random(f"{seed}/1/{index}"))
    frames = (model.frames(batch.sample_lengths_B) * FACTOR).tolist()
    rngs = [np.random.default_rng([seed, 1, index, row]) for row in range(len(frames))]
    masks = feature_masks(frames, model.config.frontend.num_mel_bins, MASKS, rngs)
    loss = model(*batch[1:], chunking, masks).total
    names, parameters = zip(*model.named_parameters())
    return dict(zip(names, torch.autograd.grad(loss, parameters)))


def test_two_batches_update_with_the_mean_of_their_gradients(
    recipe: RecipeConfig, corpus: tuple[Path, Path], tmp_path: Path
) -> None:
    trainer = start(recipe, corpus, tmp_path / "run")
    # AdamW divides by the size of the gradient, so its first update hides a factor of 2; plain descent reveals it.
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters())
    before = copy.deepcopy(trainer.model)
    trainer.run()
    first, second = (gradient(trainer, before, index) for index in (0, 1))
    weights = dict(trainer.model.named_parameters())
    for name, weight in before.named_parameters():
        mean = (first[name] + second[name]) / 2
        moved = (weight - weights[name]).detach() / RATE
        assert torch.allclose(moved, mean, rtol=1e-3, atol=1e-4 * float(mean.norm()) + 1e-6), name
    assert max(float(value.norm()) for value in first.values()) > 0.1, "there is a gradient to compare"


def test_the_logged_loss_is_the_mean_of_the_batches(
    recipe: RecipeConfig, corpus: tuple[Path, Path], tmp_path: Path
) -> None:
    """Also in the last update of an epoch, which may have fewer batches."""
    trainer = start(with_training(recipe, max_steps=3), corpus, tmp_path / "run")
    forward, update, totals, logged = trainer.model.forward, trainer._update, [], []

    def recorded(*batch):
        losses = forward(*batch)
        totals.append(float(losses.total.detach()))
        return losses

    def recording(batches):
        totals.clear()
        entry = update(batches)
        logged.append((len(batches), entry["loss"], sum(totals) / len(totals)))
        return entry

    trainer.model.forward, trainer._update = recorded, recording
    trainer.run()
    assert [count for count, _, _ in logged] == [2, 2, 1], "an epoch has 5 batches"
    assert all(loss == pytest.approx(mean) for _, loss, mean in logged)


@pytest.mark.parametrize("norm", ["fusion", "none"])
def test_accumulated_batches_equal_one_large_batch_where_batch_norm_has_constant_statistics(
    tiny_units: Path, norm: str
) -> None:
    """The batches differ in size. In float64, so that a difference can be compared with a bound."""
    recipe = tiny_recipe(tiny_units)
    encoder = dataclasses.replace(recipe.model.encoder, dropout=0.0, norm=norm)
    decoder = dataclasses.replace(recipe.model.decoder, dropout=0.0)
    chunking = dataclasses.replace(recipe.training.chunking, full_context_probability=1.0)
    config = dataclasses.replace(recipe.model, encoder=encoder, decoder=decoder)
    model = randomise(AsrModel(config, 13).double())
    rng = np.random.default_rng(0)
    small, large = (random_batch(rng, rows) for rows in (1, 4))

    def gradient_of(batches: list[Batch], constant: bool) -> torch.Tensor:
        trained = copy.deepcopy(model).train()
        freeze_statistics(trained, constant)
        training = dataclasses.replace(recipe.training, accumulate=len(batches), chunking=chunking)
        gradients = Gradients(trained, training, SpecAugmentConfig(0, 0, 0, 0), seed=0)
        gradients.compute(1, batches, torch.optim.SGD(trained.parameters()), stop=False)
        return torch.cat([p.grad.flatten() for p in trained.parameters() if p.grad is not None])

    torch.set_default_dtype(torch.float64)
    try:
        for constant, equal in ((True, True), (False, norm == "none" and not norms(model))):
            accumulated = gradient_of([small, large], constant)
            difference = (accumulated - gradient_of([joined([small, large])], constant)).norm() / accumulated.norm()
            assert (difference < 1e-9) == equal, (constant, float(difference))
    finally:
        torch.set_default_dtype(torch.float32)
