"""Start, kill and compare training runs."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from wenet_fusion.ranks import Placement
from wenet_fusion.recipe import RecipeConfig, build_trainer
from wenet_fusion.training.trainer import Trainer

CPU = Placement(torch.device("cpu"))


class Killed(BaseException):
    """An exception that ends a run at once, as a kill does."""


def with_training(recipe: RecipeConfig, **changes: Any) -> RecipeConfig:
    """Return the recipe with other values in its section `training`."""
    return dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, **changes))


def start(recipe: RecipeConfig, corpus: tuple[Path, Path], model_dir: Path) -> Trainer:
    """Return a trainer for the lists of `corpus`, which starts a run or resumes the run in `model_dir`."""
    model_dir.mkdir(exist_ok=True)
    return build_trainer(recipe, *corpus, model_dir, CPU)


def run_until(trainer: Trainer, step: int) -> None:
    """Run until the update of this step, and die before the step is logged or saved."""
    log = trainer.log.step

    def log_or_die(number, epoch, values):
        if number == step:
            raise Killed
        log(number, epoch, values)

    trainer.log.step = log_or_die
    with pytest.raises(Killed):
        trainer.run()


def killed_run(recipe: RecipeConfig, corpus: tuple[Path, Path], folder: Path) -> Path:
    """Return the folder of a run that was killed in step 4, with the state of step 2 if every second step is saved."""
    run_until(start(recipe, corpus, folder), 4)
    return folder


def differences(left: Any, right: Any, path: str = "") -> list[str]:
    """Return the places where two nested values differ in a bit."""
    if isinstance(left, torch.Tensor):
        same = left.dtype == right.dtype and torch.equal(left, right)
        return [] if same else [path]
    if dataclasses.is_dataclass(left):
        left, right = vars(left), vars(right)
    if isinstance(left, dict):
        common = left.keys() & right.keys()
        found = [f"{path}.{key}" for key in left.keys() ^ right.keys()]
        return found + [line for key in common for line in differences(left[key], right[key], f"{path}.{key}")]
    if isinstance(left, (list, tuple)) and len(left) == len(right):
        return [line for i, (a, b) in enumerate(zip(left, right)) for line in differences(a, b, f"{path}[{i}]")]
    return [] if left == right else [path]
