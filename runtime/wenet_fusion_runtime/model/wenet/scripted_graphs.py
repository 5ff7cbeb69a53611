"""WeNet's TorchScript exports: a module with the eight methods that WeNet's libtorch runtime calls."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wenet_fusion_runtime.model.torch_backend import import_torch
from wenet_fusion_runtime.model.wenet.row_backend import Geometry, GraphState

if TYPE_CHECKING:
    import torch

METHODS = (
    "subsampling_rate",
    "right_context",
    "sos_symbol",
    "eos_symbol",
    "is_bidirectional_decoder",
    "forward_encoder_chunk",
    "ctc_activation",
    "forward_attention_decoder",
)
_ENCODER_INPUTS = 5  # features, offset, required cache size and two caches; a mask that may follow has a default
_EXPORT = "export the checkpoint again with WeNet's wenet/bin/export_jit.py"


class ScriptedGraphs:
    """Run a module as WeNet's libtorch runtime does; see `Graphs`.

    Args:
        module: has the eight METHODS.

    >>> METHODS[5:]
    ('forward_encoder_chunk', 'ctc_activation', 'forward_attention_decoder')
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self.module: Any = module  # its scripted methods have no static types
        self._torch = import_torch()

    def geometry(self) -> Geometry:
        """Return the geometry and the special tokens that the module states."""
        with self._plain_inference():
            subsampling, right_context, sos, eos = (int(getattr(self.module, name)()) for name in METHODS[:4])
            return Geometry(subsampling, right_context, sos, eos, bool(self.module.is_bidirectional_decoder()))

    def bins(self) -> int | None:
        """Return the number of mel bins that the module normalises; None if it does not normalise."""
        mean = getattr(getattr(getattr(self.module, "encoder", None), "global_cmvn", None), "mean", None)
        return int(mean.shape[-1]) if isinstance(mean, self._torch.Tensor) and mean.dim() else None

    def fresh(self, chunk: int, left: int) -> GraphState:
        """Return a state with empty caches, which the module fills."""
        empty = self._torch.zeros(0, 0, 0, 0)
        return GraphState(0, empty, empty)

    def encode(
        self, features: np.ndarray, chunk: int, left: int, state: GraphState
    ) -> tuple[np.ndarray, np.ndarray, GraphState]:
        """Run one chunk; see `Graphs`."""
        with self._plain_inference():
            frames, att_cache, cnn_cache = self.module.forward_encoder_chunk(
                self._torch.from_numpy(features), state.offset, chunk * left, state.att_cache, state.cnn_cache
            )
            log_probs = self.module.ctc_activation(frames)
            new = GraphState(state.offset + frames.size(1), att_cache, cnn_cache)
            return frames.float().numpy(), log_probs.float().numpy(), new

    def decode(self, hyps: np.ndarray, lengths: np.ndarray, encoder_out: np.ndarray) -> Sequence[np.ndarray]:
        """Run both decoders; see `Graphs`."""
        with self._plain_inference():
            tensors = map(self._torch.from_numpy, (hyps, lengths, encoder_out))
            # Any weight above 0 makes the right-to-left decoder run; the search applies the real weight.
            scores = self.module.forward_attention_decoder(*tensors, 1.0)
            return [each.float().numpy() for each in scores]

    def use_one_thread(self) -> None:
        """Make torch use one core in calls from this thread. Other threads of the process may be affected too."""
        self._torch.set_num_threads(1)

    @contextlib.contextmanager
    def _plain_inference(self) -> Iterator[None]:
        """Turn off autograd and TorchScript's profiling, as WeNet's runtime does."""
        with self._torch.inference_mode(), self._torch.jit.optimized_execution(False):
            yield


def load_scripted(path: Path) -> ScriptedGraphs:
    """Load a TorchScript file onto the CPU.

    Raises:
        ImportError: torch is not installed.
        ValueError: torch cannot load the file, or this runtime cannot run its module.
    """
    torch = import_torch()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(str(path), map_location="cpu")
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{path}: torch {torch.__version__} cannot load it: {reason}; copy the file again, or {_EXPORT}"
        ) from None
    if missing := [name for name in METHODS if not hasattr(module, name)]:
        raise ValueError(f"{path}: WeNet's module has no {', '.join(missing)}; {_EXPORT}")
    inputs = [argument.name for argument in module.forward_encoder_chunk.schema.arguments[1:]]
    if inputs[3:_ENCODER_INPUTS] != ["att_cache", "cnn_cache"]:
        raise ValueError(
            f"{path}: was exported by a WeNet before 2.0, whose encoder takes {', '.join(inputs)}; {_EXPORT} of "
            "WeNet 2 or 3"
        )
    if hasattr(module, "get_cat_labels") and (labels := module.get_cat_labels()):
        raise ValueError(
            f"{path}: is a model of Rev.com's Reverb, whose layers need a category ({', '.join(labels)}) with each "
            "chunk, which WeNet's runtimes and this one do not give; run it with Rev.com's reverb"
        )
    return ScriptedGraphs(module.eval())
