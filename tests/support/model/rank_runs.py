"""Training runs of two ranks that are killed and resumed."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
from support.model.rank_processes import run_ranks
from support.model.runs import Killed

from wenet_fusion.ranks import Placement, Ranks
from wenet_fusion.recipe import RecipeConfig, build_trainer
from wenet_fusion.training.optimisation.update import Gradient

CPU = torch.device("cpu")


def run_rank(ranks: Ranks, recipe: RecipeConfig, corpus: tuple[Path, Path], model_dir: Path, kill_at: int) -> None:
    """Train as one rank until it is killed in step `kill_at`."""
    trainer = build_trainer(recipe, *corpus, model_dir, Placement(CPU, ranks))
    steps = trainer.gradients.compute

    def until_killed(step: int, *arguments: Any) -> Gradient:
        if step == kill_at:
            raise Killed
        return steps(step, *arguments)

    trainer.gradients.compute = until_killed  # type: ignore[method-assign]
    with contextlib.suppress(Killed):
        trainer.run()


def run_all(tmp_path: Path, name: str, recipe: RecipeConfig, corpus: tuple[Path, Path], kills: tuple[int, ...]) -> Path:
    """Train with two ranks, killed in the given steps and started again; return the folder of the run."""
    model_dir = tmp_path / name
    model_dir.mkdir()
    for number, kill_at in enumerate((*kills, 10**9)):
        folder = tmp_path / f"{name}_{number}"
        folder.mkdir()
        run_ranks(run_rank, 2, folder, recipe, corpus, model_dir, kill_at)
    return model_dir
