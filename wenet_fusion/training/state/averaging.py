"""Average checkpoints, and re-estimate their BatchNorm statistics: averaged statistics do not fit averaged weights."""

from collections.abc import Iterable
from pathlib import Path

import torch

from wenet_fusion.data.batch import Batch
from wenet_fusion.model.asr_model import AsrModel
from wenet_fusion.model.chunking import Chunking
from wenet_fusion.model.layers.norm import estimating_statistics
from wenet_fusion.ranks import Placement
from wenet_fusion.training.state.checkpoint import ModelCheckpoint, list_checkpoints, load_model
from wenet_fusion.training.state.fingerprint import changed_settings
from wenet_fusion.training.state.run_files import best_checkpoints


def choose_checkpoints(model_dir: Path, count: int, best: bool) -> list[Path]:
    """Return the paths of `count` checkpoints of a run, oldest first.

    Args:
        model_dir: the run's folder.
        count: number of checkpoints.
        best: take the checkpoints with the lowest dev loss (NaN counts as the highest) instead of the last ones.

    Raises:
        ValueError: the folder holds no checkpoint, or fewer than `count`.
    """
    if count < 1:
        raise ValueError(f"--num {count}: an average takes at least 1 checkpoint")
    paths = list_checkpoints(model_dir)
    if not paths:
        raise ValueError(
            f"{model_dir} holds no step_*.pt checkpoint: train first (wenet-fusion train --model_dir {model_dir} ...)"
        )
    if len(paths) < count:
        raise ValueError(
            f"{model_dir} holds {len(paths)} checkpoint{'s' * (len(paths) > 1)}, fewer than --num {count}: give "
            f"--num {len(paths)} (a recipe's --average_num), train longer, or validate more often"
        )
    if best:
        chosen = best_checkpoints(paths, count, by="loss")
        return [path for path in paths if path in chosen]
    return paths[-count:]


def average_checkpoints(paths: list[Path]) -> ModelCheckpoint:
    """Return a checkpoint with mean weights and statistics, NaN as dev scores, and everything else from the last one.

    The averaged statistics do not match the averaged weights: call `reestimate_statistics` next.

    Raises:
        ValueError: the checkpoints belong to different models.
    """
    last = load_model(paths[-1])
    sums = {name: value.double().clone() for name, value in last.weights.items() if value.is_floating_point()}
    for path in paths[:-1]:
        other = load_model(path)
        if other.units != last.units or changed_settings(other.config_yaml, last.config_yaml, 0, last.config_yaml):
            raise ValueError(f"{path} and {paths[-1]} are of different models: average checkpoints of one run")
        for name in sums:
            sums[name] += other.weights[name]
    weights = {
        name: (sums[name] / len(paths)).to(value.dtype) if name in sums else value
        for name, value in last.weights.items()
    }
    nan = float("nan")
    return ModelCheckpoint(last.config_yaml, last.units, last.bpe_model, weights, last.step, nan, nan)


@torch.no_grad()
def reestimate_statistics(model: AsrModel, batches: Iterable[tuple[Batch, Chunking]], placement: Placement) -> int:
    """Replace the BatchNorm statistics of a model by their mean over batches; return the number of batches.

    Args:
        model: a model on the device of `placement`.
        batches: batches of this rank, each with its chunking.
        placement: the model's device, and the ranks: every rank must call it, and gets the mean over all batches.
    """
    count = 0
    with estimating_statistics(model):
        for batch, chunking in batches:
            model.encode(batch.samples_BN.to(placement.device), batch.sample_lengths_B.to(placement.device), chunking)
            count += 1
    if placement.ranks.world == 1:
        return count
    statistics = {name: value for name, value in model.named_buffers() if "running_" in name}
    shares = placement.ranks.all((count, {name: value.double().cpu() for name, value in statistics.items()}))
    total = sum(number for number, _ in shares)
    for name, value in statistics.items():
        value.copy_(torch.stack([number * found[name] for number, found in shares]).sum(0) / max(total, 1))
    return total
