"""Runs TorchScript files, and torch modules in memory. The only file that knows torch; knows no search."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator, Sequence

import numpy as np

from wenet_fusion_runtime.acoustic_model import StepScores
from wenet_fusion_runtime.meta import Meta

if TYPE_CHECKING:
    import torch

NO_ENGINE = "none"    # any torch will do
_NEEDS = {"fbgemm": " (an x86 CPU with AVX2)"}


class TorchBackend:
    """A module with the methods of an exported file: `init_state`, `step`, `rescore`, `concat_states`, `split_state`.

    Args:
        module: in eval mode.
        device: torch device that holds it.
    Raises:
        ImportError: torch is not installed.
        ValueError: the module is in training mode.
    """

    def __init__(self, module: torch.nn.Module, device: str = "cpu") -> None:
        if getattr(module, "training", False):    # a frozen module has no such attribute
            raise ValueError("the model is in training mode; call its eval() first")
        self._module = module
        self._device = device
        self._torch = _import_torch()

    def init_state(self, batch: int, chunk: int, left: int) -> Any:
        with self._plain_inference():
            return self._module.init_state(batch, chunk, left)

    def step(
        self, samples: np.ndarray, lengths: np.ndarray, chunk: int, left: int, state: Any
    ) -> tuple[StepScores, Any]:
        with self._plain_inference():
            scores, state = self._module.step(self._tensor(samples), self._tensor(lengths), chunk, left, state)
            return StepScores(*map(_array, scores)), state

    def rescore(self, encoder_out: np.ndarray, hyps: np.ndarray, hyp_lengths: np.ndarray) -> np.ndarray:
        with self._plain_inference():
            tensors = map(self._tensor, (encoder_out, hyps, hyp_lengths))
            return _array(self._module.rescore(*tensors))

    def concat_states(self, states: Sequence[Any]) -> Any:
        with self._plain_inference():
            return self._module.concat_states(list(states))

    def split_state(self, state: Any) -> list[Any]:
        with self._plain_inference():
            return self._module.split_state(state)

    def step_graph(self) -> Any:
        """The inlined TorchScript graph of the step of a loaded file: for tools that show what it runs."""
        return self._module.step.inlined_graph

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return self._torch.from_numpy(array).to(self._device)

    @contextlib.contextmanager
    def _plain_inference(self) -> Iterator[None]:
        """No autograd, and no profiling runs: they make the first chunks several times slower than the rest."""
        with self._torch.inference_mode(), self._torch.jit.optimized_execution(False):
            yield


def load_torchscript(path: Path, meta: Meta) -> TorchBackend:
    """Load a TorchScript file onto the CPU.

    Raises:
        ImportError: torch is not installed.
        ValueError: this machine's torch cannot run the file; the message says what to export instead.
    """
    torch = _import_torch()
    engines = torch.backends.quantized.supported_engines
    if meta.engine != NO_ENGINE and meta.engine not in engines:
        raise ValueError(
            f"{path}: precision {meta.precision} needs torch's engine {meta.engine}{_NEEDS.get(meta.engine, '')}, this "
            f"machine has {', '.join(engines)}; export with --precision float32, or with --format onnx for onnxruntime")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return TorchBackend(torch.jit.load(str(path), map_location="cpu"))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{path}: torch {torch.__version__} cannot load it (written by {dict(meta.versions)}): "
                         f"{reason}; export the model again") from None


def _array(tensor: torch.Tensor) -> np.ndarray:
    """Shares the tensor's memory if it is on the CPU; half precision becomes float32."""
    return (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()


def _import_torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise ImportError("this model runs on torch, which is not installed: "
                          "pip install 'wenet-fusion-runtime[torch]'") from error
    return torch
