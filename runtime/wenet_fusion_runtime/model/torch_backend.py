"""The backend of TorchScript files and of torch modules in memory."""

from __future__ import annotations

import contextlib
import threading
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from wenet_fusion_runtime.console import unusable_package
from wenet_fusion_runtime.model.acoustic_model import StepScores
from wenet_fusion_runtime.model.metadata import VOCABULARY_SIZE, Meta, check_head

if TYPE_CHECKING:
    import torch

_PACKING = threading.Lock()
NO_ENGINE = "none"  # the file runs on every build of torch
_NEEDS = {"fbgemm": " (an x86 CPU with AVX2)"}


class TorchState(NamedTuple):
    """The state of a batch of streams."""

    tensors: Any  # as the module's `init_state` returned them
    cached: int  # frames of left context, chunk * left
    fresh: bool  # true before the first step


class TorchBackend:
    """Run a module with the methods `init_state`, `step`, `rescore`, `concat_states` and `split_state`.

    Args:
        module: the module, in eval mode.
        device: torch device of its weights.
    Raises:
        ImportError: torch is not installed.
        ValueError: the module is in training mode.

    >>> import torch
    >>> TorchBackend(torch.nn.Linear(1, 1))
    Traceback (most recent call last):
    ValueError: the model is in training mode; call its eval() first
    """

    def __init__(self, module: torch.nn.Module, device: str = "cpu") -> None:
        if getattr(module, "training", False):  # frozen modules lack the attribute
            raise ValueError("the model is in training mode; call its eval() first")
        self.module: Any = module  # its scripted methods have no static types
        self._device = device
        self._torch = import_torch()

    def init_state(self, batch: int, chunk: int, left: int) -> TorchState:
        """See `Backend`."""
        with self._plain_inference():
            return TorchState(self.module.init_state(batch, chunk, left), chunk * left, fresh=True)

    def step(
        self, samples: np.ndarray, lengths: np.ndarray, chunk: int, left: int, state: TorchState
    ) -> tuple[StepScores, TorchState]:
        """Run whole chunks; see `Backend`. A fresh state without cached frames fits every left context.

        Raises:
            ValueError: the state was made for another chunk size or left context.
        """
        if state.cached != chunk * left and not (state.fresh and state.cached == 0):
            raise ValueError(
                f"the state holds {state.cached} frames, but chunk {chunk} with left context {left} "
                f"needs {chunk * left}; give init_state the same chunk and left context"
            )
        with self._plain_inference():
            scores, new = self.module.step(self._tensor(samples), self._tensor(lengths), chunk, left, state.tensors)
            return StepScores(*map(_array, scores)), TorchState(new, state.cached, fresh=False)

    def rescore(self, encoder_out: np.ndarray, hyps: np.ndarray, hyp_lengths: np.ndarray) -> np.ndarray:
        """See `Backend`."""
        with self._plain_inference():
            tensors = map(self._tensor, (encoder_out, hyps, hyp_lengths))
            return _array(self.module.rescore(*tensors))

    def concat_states(self, states: Sequence[TorchState]) -> TorchState:
        """See `Backend`."""
        with self._plain_inference():
            joined = self.module.concat_states([state.tensors for state in states])
            return states[0]._replace(tensors=joined, fresh=all(state.fresh for state in states))

    def split_state(self, state: TorchState) -> list[TorchState]:
        """See `Backend`."""
        with self._plain_inference():
            return [state._replace(tensors=row) for row in self.module.split_state(state.tensors)]

    def use_one_thread(self) -> None:
        """Make torch use one core in calls from this thread. Other threads of the process may be affected too."""
        self._torch.set_num_threads(1)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return self._torch.from_numpy(array).to(self._device)

    @contextlib.contextmanager
    def _plain_inference(self) -> Iterator[None]:
        """Turn off autograd and TorchScript's profiling; profiling makes the first chunks several times slower."""
        with self._torch.inference_mode(), self._torch.jit.optimized_execution(False):
            yield


def load_torchscript(path: Path, meta: Meta) -> TorchBackend:
    """Load a TorchScript file onto the CPU.

    Raises:
        ImportError: torch is not installed.
        ValueError: the installed torch cannot run the file; the message says what to export instead.
    """
    torch = import_torch()
    engines = torch.backends.quantized.supported_engines
    if meta.requires != NO_ENGINE and meta.requires not in engines:
        raise ValueError(
            f"{path}: precision {meta.precision} needs torch's engine {meta.requires}{_NEEDS.get(meta.requires, '')}, "
            f"this machine has {', '.join(engines)}; export with --precision float32, or with --format onnx for "
            "onnxruntime"
        )
    with zipfile.ZipFile(path) as archive:  # torch.jit.load does not verify checksums
        if damaged := archive.testzip():
            raise ValueError(
                f"{path}: the checksum of {damaged} is wrong: the file is damaged; copy or export it again"
            )
    try:
        with warnings.catch_warnings(), packing_engine(meta.requires):
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(str(path), map_location="cpu")
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{path}: torch {torch.__version__} cannot load it (written by {dict(meta.versions)}): "
            f"{reason}; export the model again"
        ) from None
    check_head(meta, getattr(module, VOCABULARY_SIZE, None), str(path))
    return TorchBackend(module)


@contextlib.contextmanager
def packing_engine(engine: str) -> Iterator[None]:
    """Select torch's quantized engine within the block.

    The setting is global: a lock admits one thread at a time, and the old engine is restored at the end.

    Args:
        engine: name of the engine, e.g. "fbgemm"; "none" changes nothing.
    """
    torch = import_torch()
    if engine == NO_ENGINE:
        yield
        return
    with _PACKING:
        before = torch.backends.quantized.engine
        torch.backends.quantized.engine = engine
        try:
            yield
        finally:
            torch.backends.quantized.engine = before


def _array(tensor: torch.Tensor) -> np.ndarray:
    """Convert a tensor to numpy, sharing its memory if it is on the CPU; half precision becomes float32."""
    return (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()


def import_torch() -> Any:
    """Return torch.

    Raises:
        ImportError: torch is not installed; the message gives the command that installs it.
    """
    try:
        import torch
    except (ImportError, OSError, MemoryError, RuntimeError) as error:
        missing = "this model runs on torch, which is not installed: pip install 'wenet-fusion-runtime[torch]'"
        raise unusable_package("torch", missing, error) from error
    return torch
