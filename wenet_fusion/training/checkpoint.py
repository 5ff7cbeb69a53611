"""Files of a training run: model checkpoints and the full training state. Every write is atomic.

A model directory holds `step_N.pt` (a model that can be evaluated, averaged, exported) for each validation and
`training_state.pt` (all that is needed to go on, bit for bit).
"""

import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from wenet_fusion_runtime.files import replacing

from wenet_fusion.training.checkpoint_migration import FORMAT, migrate

MODEL_KIND = "wenet_fusion.model"
STATE_KIND = "wenet_fusion.training_state"
STATE_NAME = "training_state.pt"

T = TypeVar("T")


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
    epoch_loss: float = 0.0  # sum over the epoch's updates so far
    epoch_updates: int = 0  # that were not left out
    data_digest: str = ""  # of the training set; earlier versions kept none


def checkpoint_name(step: int) -> str:
    return f"step_{step:06d}.pt"


def checkpoint_step(path: Path) -> int:
    """The inverse of `checkpoint_name`."""
    return int(path.stem.removeprefix("step_"))


def list_checkpoints(model_dir: Path) -> list[Path]:
    """`step_N.pt` files, oldest first."""
    paths = [path for path in model_dir.glob("step_*.pt") if path.stem.removeprefix("step_").isdecimal()]
    # Beyond step 999999 names grow longer, and their order is no longer the alphabet's.
    return sorted(paths, key=checkpoint_step)


def save_atomically(content: Any, path: Path) -> None:
    """A kill at any moment leaves the old file or the new one, whole."""
    with replacing(path) as temporary:
        torch.save(content, temporary)


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
    return _load(ModelCheckpoint, path, MODEL_KIND, "a model checkpoint such as exp/.../step_000100.pt")


def load_training_state(model_dir: Path) -> TrainingState | None:
    """The state to resume from, or None if the directory has none.

    Raises:
        ValueError: if the file is damaged; it never is by a kill, only by hand or by the disk.
    """
    path = model_dir / STATE_NAME
    if not path.exists():
        return None
    return _load(TrainingState, path, STATE_KIND, f"a training state; delete {path} to start again")


def _load(cls: type[T], path: Path, kind: str, expected: str) -> T:
    if path.is_dir():
        raise ValueError(f"{path} is a directory; give {expected}")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give {expected}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; give {expected}")
    try:
        content = None if is_exported(path) else _read(path)
    except OSError:
        raise
    except Exception as error:  # the bytes of a foreign or damaged file make the unpickler raise nearly anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"{path} cannot be read ({reason}); give {expected}") from None
    if content is None:
        raise ValueError(f"{path} is an exported model; give {expected}")
    if not isinstance(content, dict) or content.get("kind") != kind:
        found = (
            content.get("kind", "a file of another program") if isinstance(content, dict) else type(content).__name__
        )
        raise ValueError(f"{path} is not what was expected but {found!r}; give {expected}")
    content = migrate(content)
    if content.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {content.get('format')}, this version reads {FORMAT}; use the version of wenet_fusion that wrote it, or train again"
        )
    try:
        return cls(**{key: value for key, value in content.items() if key not in ("kind", "format")})
    except TypeError as error:
        raise ValueError(f"{path} was not written by this version ({error}); give {expected}") from None


def is_exported(path: Path) -> bool:
    """Is this a model that was exported for the runtime, to TorchScript or ONNX? False also for what does not exist."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name or name == "step.onnx" for name in archive.namelist())


def _read(path: Path) -> Any:
    with (
        warnings.catch_warnings(),
        torch.serialization.safe_globals([bytes]),
    ):  # empty bytes are pickled as a call of `bytes`
        warnings.simplefilter("ignore", UserWarning)  # torch's doubts about the pickles of other programs
        content = torch.load(path, map_location="cpu", weights_only=True)
    with zipfile.ZipFile(path) as archive:  # torch itself compares no checksum
        if damaged := archive.testzip():
            raise ValueError(f"the checksum of {damaged} is wrong: the file is damaged")
    return content


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
        raise ValueError(
            f"{origin} does not fit the configured model ({len(found)} differences: {shown}): use its own configuration"
        )
    module.load_state_dict(weights)
