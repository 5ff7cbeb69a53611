"""Files of a training run: model checkpoints and the full training state. Every write is atomic.

A model directory holds `step_N.pt` (a model that can be evaluated, averaged, exported) for each validation and
`training_state.pt` (all that is needed to go on, bit for bit).
"""

import os
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

FORMAT = 1
MODEL_KIND = "wenet_fusion.model"
STATE_KIND = "wenet_fusion.training_state"
STATE_NAME = "training_state.pt"


@dataclass(frozen=True)
class ModelCheckpoint:
    """A trained model with all that is needed to rebuild it."""

    config_yaml: str
    units: tuple[str, ...]
    bpe_model: bytes  # sentencepiece model; empty for other tokenizers
    weights: dict[str, Tensor]
    step: int
    dev_loss: float
    dev_error_rate: float  # fraction; NaN before a validation


@dataclass(frozen=True)
class TrainingState:
    """Where a run stands between two steps."""

    config_yaml: str
    units: tuple[str, ...]
    step: int
    epoch: int
    batch: int  # batches of the epoch that are done
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    rng: Tensor  # torch's CPU generator (dropout)
    cuda_rng: list[Tensor]
    skipped_steps: int  # steps that the non-finite guard left out


def checkpoint_name(step: int) -> str:
    return f"step_{step:06d}.pt"


def list_checkpoints(model_dir: Path) -> list[Path]:
    """`step_N.pt` files, oldest first."""
    return sorted(model_dir.glob("step_*.pt"))


def save_atomically(content: Any, path: Path) -> None:
    """Writes beside `path` and renames: a kill at any moment leaves the old file or the new one, whole."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def save_model(checkpoint: ModelCheckpoint, path: Path) -> None:
    save_atomically({"kind": MODEL_KIND, "format": FORMAT, **vars(checkpoint)}, path)


def save_training_state(state: TrainingState, model_dir: Path) -> None:
    save_atomically({"kind": STATE_KIND, "format": FORMAT, **vars(state)}, model_dir / STATE_NAME)


def load_model(path: Path) -> ModelCheckpoint:
    """Reads a model checkpoint onto the CPU.

    Raises:
        ValueError: if the file is something else; says what it is and what to give instead.
        OSError: if it cannot be read.
    """
    return ModelCheckpoint(**_load(path, MODEL_KIND, "a model checkpoint such as exp/.../step_000100.pt"))


def load_training_state(model_dir: Path) -> TrainingState | None:
    """The state to resume from, or None if the directory has none.

    Raises:
        ValueError: if the file is damaged; it never is by a kill, only by hand or by the disk.
    """
    path = model_dir / STATE_NAME
    if not path.exists():
        return None
    return TrainingState(**_load(path, STATE_KIND, f"a training state; delete {path} to start again"))


def _load(path: Path, kind: str, expected: str) -> dict[str, Any]:
    if path.is_dir():
        raise ValueError(f"{path} is a directory; give {expected}")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give {expected}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; give {expected}")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any("/code/" in name for name in archive.namelist()):
                raise ValueError(f"{path} is an exported TorchScript model; give {expected}")
    try:
        with torch.serialization.safe_globals([bytes]):  # empty bytes are pickled as a call of `bytes`
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError) as error:
        raise ValueError(f"{path} cannot be read ({str(error).splitlines()[0]}); give {expected}") from None
    if not isinstance(content, dict) or content.get("kind") != kind:
        found = content.get("kind", "a file of another program") if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path} is not what was expected but {found!r}; give {expected}")
    if content["format"] > FORMAT:
        raise ValueError(f"{path} has format {content['format']}, this version reads up to {FORMAT}; update wenet_fusion")
    return {key: value for key, value in content.items() if key not in ("kind", "format")}


def load_weights(module: nn.Module, weights: dict[str, Tensor], origin: str) -> None:
    """Copies weights into a module.

    Raises:
        ValueError: naming the first differences, if names or shapes differ.
    """
    own = module.state_dict()
    found = [f"{name} is missing" for name in own if name not in weights]
    found += [f"{name} is unknown" for name in weights if name not in own]
    found += [
        f"{name} is {tuple(weights[name].shape)}, the model's is {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if found:
        shown = "; ".join(found[:3])
        raise ValueError(f"{origin} does not fit the configured model ({len(found)} differences: {shown}): use its own configuration")
    module.load_state_dict(weights)
