"""Read and write the checkpoints and the state of a training run; every file is replaced atomically.

`step_N.pt` are the models of the last and best validations, for evaluation, averaging and export. The run resumes from
`training_state.pt`.
"""

import math
import re
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from wenet_fusion_runtime.console import is_out_of_memory

from wenet_fusion.training.state.atomic_save import save_atomically
from wenet_fusion.training.state.checkpoint_migration import FORMAT, migrate

MODEL_KIND = "wenet_fusion.model"
STATE_KIND = "wenet_fusion.training_state"
STATE_NAME = "training_state.pt"
STATE_BEFORE_NAME = "training_state_before.pt"

T = TypeVar("T")


@dataclass(frozen=True)
class ModelCheckpoint:
    """A trained model, with configuration and vocabulary to rebuild it.

    >>> ModelCheckpoint("seed: 0\\n", ("<blank>", "<unk>", "<sos/eos>", "one"), b"", {}, 100, 2.5, 0.1).step
    100
    """

    config_yaml: str
    units: tuple[str, ...]  # tokens of the vocabulary (units in WeNet)
    bpe_model: bytes  # sentencepiece model; empty for other tokenizers
    weights: dict[str, Tensor]
    step: int
    dev_loss: float  # NaN before a validation
    dev_error_rate: float  # as a fraction; NaN before a validation


@dataclass(frozen=True)
class TrainingState:
    """The state of a run between two updates.

    >>> state = load_training_state(Path("exp/run1"))  # doctest: +SKIP
    >>> state.step  # doctest: +SKIP
    500
    """

    config_yaml: str
    units: tuple[str, ...]  # tokens of the vocabulary (units in WeNet)
    step: int  # updates so far, skipped ones included
    epoch: int
    batch: int  # position in the epoch, see `LoadedBatch.position`
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    rng: list[Tensor]  # state of torch's CPU generator (dropout) in each rank
    cuda_rng: list[Tensor]  # state of the GPU's generator in each rank; empty on the CPU
    skipped_steps: int  # number of updates that were not finite
    epoch_loss: float = 0.0  # sum of the losses of the epoch's finite updates so far
    epoch_updates: int = 0  # number of the epoch's finite updates so far
    data_digest: str = ""  # digest of the training set; empty in states of earlier versions
    train_hashes: Tensor | None = None  # hashes of the training list, see `DataContents`; None in earlier versions
    dev_hashes: Tensor | None = None  # hashes of the dev list
    scaler: dict[str, Any] = field(default_factory=dict)  # the loss scale of float16
    origin: dict[str, str] = field(default_factory=dict)  # the checkpoint that gave the first weights, see `Origin`
    average: dict[str, Tensor] = field(default_factory=dict)  # moving average of the weights; empty: none
    trusts_durations: bool = False  # True: durations come from the list; False: an earlier version measured them


def checkpoint_name(step: int) -> str:
    """Return the file name of a step's checkpoint.

    >>> checkpoint_name(100)
    'step_000100.pt'
    """
    return f"step_{step:06d}.pt"


def checkpoint_step(path: Path) -> int:
    """Return the step of a checkpoint from its file name."""
    return int(path.stem.removeprefix("step_"))


def list_checkpoints(model_dir: Path) -> list[Path]:
    """Return the `step_N.pt` files of a folder, oldest first."""
    paths = [path for path in model_dir.glob("step_*.pt") if path.stem.removeprefix("step_").isdecimal()]
    # Beyond step 999999 names grow longer, so their alphabetical order is wrong.
    return sorted(paths, key=checkpoint_step)


def set_later_checkpoints_aside(model_dir: Path, step: int) -> None:
    """Rename checkpoints of later steps to old_*: they belong to another run, or this run will write them again."""
    later = [path for path in list_checkpoints(model_dir) if checkpoint_step(path) > step]
    for path in later:
        path.replace(path.with_name(f"old_{path.name}"))
    if later:
        names = later[0].name if len(later) == 1 else f"{later[0].name} to {later[-1].name}"
        renamed = f"renamed {len(later)} checkpoint{'s' * (len(later) > 1)} of later steps to old_* ({names})"
        print(f"{model_dir} is at step {step}: {renamed}")


def save_model(checkpoint: ModelCheckpoint, path: Path) -> None:
    """Write a model checkpoint."""
    save_atomically({"kind": MODEL_KIND, "format": FORMAT, **vars(checkpoint)}, path)


def save_training_state(state: TrainingState, model_dir: Path) -> None:
    """Write the training state of a run's folder, and keep the previous one in case the disk damages the new one."""
    content = {"kind": STATE_KIND, "format": FORMAT, **vars(state)}
    save_atomically(content, model_dir / STATE_NAME, model_dir / STATE_BEFORE_NAME)


def load_model(path: Path) -> ModelCheckpoint:
    """Read a model checkpoint onto the CPU.

    Raises:
        ValueError: the file is not a model checkpoint; the message gives a remedy.
        OSError: the file cannot be read.
    """
    return _load(ModelCheckpoint, path, MODEL_KIND, "a model checkpoint such as exp/.../step_000100.pt")


def read_scores(path: Path) -> tuple[float, float]:
    """Return dev loss and error rate of a checkpoint without reading its weights; NaN if it cannot be read."""
    try:
        content = _unpickled(path, mmap=True)
        return content["dev_loss"], content["dev_error_rate"]
    except Exception:  # on a file of another program, the unpickler may raise any exception
        return math.nan, math.nan


def load_training_state(model_dir: Path) -> TrainingState | None:
    """Read the state to resume from; None if the folder has none.

    Raises:
        ValueError: the file is damaged, by hand or by the disk (a kill never damages it). The message suggests the
            previous state, if that one is intact.
    """
    path, before = model_dir / STATE_NAME, model_dir / STATE_BEFORE_NAME
    if not path.exists():
        return None
    restart = f"a training state; delete {path} to start again"
    try:
        return _load(TrainingState, path, STATE_KIND, restart)
    except ValueError as error:
        try:
            step = _load(TrainingState, before, STATE_KIND, restart).step
        except (ValueError, OSError):
            raise error from None
        reason = str(error).partition("; give a training state")[0]
        raise ValueError(
            f"{reason}; the state before it, of step {step}, is whole: go on from there with mv {before} {path}"
        ) from None


def _load(cls: type[T], path: Path, kind: str, expected: str) -> T:
    if path.is_dir():
        raise ValueError(f"{path} is a directory; give {expected}")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give {expected}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; give {expected}")
    open(path, "rb").close()  # raises OSError with the path if it may not be read
    try:
        content = None if is_exported(path) else _read(path)
    except Exception as error:  # on a file of another program, the unpickler may raise any exception, also OSError
        if is_out_of_memory(error):
            raise
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(
            f"{path} cannot be read: it is cut off or damaged, or of another program ({reason}); "
            f"give {expected}{_earlier(path)}"
        ) from None
    if content is None:
        raise ValueError(f"{path} is an exported model; give {expected}")
    if not isinstance(content, dict) or content.get("kind") != kind:
        kinds = content if isinstance(content, dict) else {"kind": type(content).__name__}
        raise ValueError(f"{path} is {kinds.get('kind', 'a file of another program')!r}; give {expected}")
    content = migrate(content)
    if content.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {content.get('format')!r}, this version reads {FORMAT}; "
            "use the version of wenet_fusion that wrote it, or train again"
        )
    try:
        loaded = cls(**{key: value for key, value in content.items() if key not in ("kind", "format")})
        _check_types(content)
    except TypeError as error:
        raise ValueError(f"{path} was not written by this version ({error}); give {expected}") from None
    for name, weight in content["weights"].items():
        if not bool(torch.isfinite(weight).all()):
            raise ValueError(
                f"{path} holds NaN or infinity in {name}: the training diverged, or another program wrote the file; "
                f"give {expected}{_earlier(path)}"
            )
    return loaded


def _check_types(content: dict[str, Any]) -> None:
    for name, kind in (("config_yaml", str), ("units", tuple), ("weights", dict), ("step", int)):
        if not isinstance(content[name], kind):
            raise TypeError(f"{name} is {type(content[name]).__name__}, expected {kind.__name__}")
    if not all(isinstance(unit, str) for unit in content["units"]):
        raise TypeError("units must be texts")
    if not all(isinstance(weight, Tensor) for weight in content["weights"].values()):
        raise TypeError("weights must be tensors")
    if content["step"] < 0:
        raise TypeError(f"step is {content['step']}, expected 0 or more")


def _earlier(path: Path) -> str:
    """Return a hint that names the last checkpoint before a damaged one."""
    if not re.fullmatch(r"step_\d+\.pt", path.name):
        return ""
    others = [other for other in list_checkpoints(path.parent) if checkpoint_step(other) < checkpoint_step(path)]
    return f"; the checkpoint before it is {others[-1]}" if others else ""


def is_exported(path: Path) -> bool:
    """Check whether a file is a model that was exported to TorchScript or ONNX; False for a missing file."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name or name == "step.onnx" for name in archive.namelist())


def _unpickled(path: Path, mmap: bool = False) -> Any:
    with (
        warnings.catch_warnings(),
        torch.serialization.safe_globals([bytes]),  # empty bytes are pickled as a call of `bytes`
    ):
        warnings.simplefilter("ignore", UserWarning)  # torch warns about pickles of other programs
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def _read(path: Path) -> Any:
    content = _unpickled(path)
    with zipfile.ZipFile(path) as archive:  # torch.load does not verify checksums
        if damaged := archive.testzip():
            raise ValueError(f"the checksum of {damaged} is wrong: the file is damaged")
    return content


def load_weights(module: nn.Module, weights: dict[str, Tensor], origin: str) -> None:
    """Copy weights into a module.

    Raises:
        ValueError: names or shapes differ; the message lists the first differences.
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


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any], origin: str) -> None:
    """Load the state of an optimiser. Raises ValueError if the optimiser of another model wrote it."""
    try:
        optimizer.load_state_dict(state)
        moments = [(weight, value) for weight, values in optimizer.state.items() for value in values.values()]
        fits = all(value.shape in ((), weight.shape) for weight, value in moments)  # else a fused kernel crashes
    except (KeyError, ValueError):
        fits = False
    if not fits:
        raise ValueError(f"{origin}/{STATE_NAME} holds an optimiser of another model: choose another --model_dir")
