"""The backend of int8 ONNX archives on the native step of wenet-fusion-kernels, without onnxruntime.

Rescoring runs on onnxruntime, which is loaded when the first hypotheses are rescored.
"""

from __future__ import annotations

import importlib
import importlib.util
import zipfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wenet_fusion_runtime.console import unusable_package
from wenet_fusion_runtime.model.acoustic_model import StepScores
from wenet_fusion_runtime.model.archive_members import read_member
from wenet_fusion_runtime.model.metadata import Meta, check_head
from wenet_fusion_runtime.model.native_table import NATIVE, NativeTable
from wenet_fusion_runtime.model.onnx_backend import RESCORE, STEP, RescoringGraph

if TYPE_CHECKING:
    from wenet_fusion_kernels import FusedModel, State

PACKAGE = "wenet_fusion_kernels"
_MISSING = (
    "the native step needs wenet-fusion-kernels, which is not installed: pip install 'wenet-fusion-runtime[native]', "
    "or in a clone pip install './runtime[native]'"
)


class NativeBackend:
    """Run the step of a fused int8 model in the native library; a step uses one core.

    Args:
        model: the model in the library.
        rescore: content of rescore.onnx; None if the model has no decoder.
        threads: number of threads of a call of onnxruntime.
        source: name of the archive in messages.

    >>> from types import SimpleNamespace
    >>> backend = NativeBackend(SimpleNamespace(family="avx2"), rescore=None, threads=1, source="int8.onnx.zip")
    >>> backend.family
    'avx2'
    """

    def __init__(self, model: FusedModel, rescore: bytes | None, threads: int, source: str) -> None:
        self._model = model
        self._rescore = rescore
        self._threads, self._source = threads, source

    @property
    def family(self) -> str:
        """The processor family whose code runs."""
        return self._model.family

    def init_state(self, batch: int, chunk: int, left: int) -> State:
        """See `Backend`."""
        return self._model.init_state(batch, chunk * left)

    def step(
        self, samples: np.ndarray, lengths: np.ndarray, chunk: int, left: int, state: State
    ) -> tuple[StepScores, State]:
        """Run one chunk; see `Backend`.

        Raises:
            ValueError: the state was made for another chunk size or left context.
        """
        scores, after = self._model.step(samples, lengths, chunk * left, state)
        return StepScores(*scores), after

    @cached_property
    def _graph(self) -> RescoringGraph:
        return RescoringGraph(self._rescore, self._threads, self._source)

    def rescore(self, encoder_out: np.ndarray, hyps: np.ndarray, hyp_lengths: np.ndarray) -> np.ndarray:
        """See `Backend`; zeros if the model has no decoder.

        Raises:
            ValueError: onnxruntime cannot load the graph.
        """
        return self._graph.rescore(encoder_out, hyps, hyp_lengths)

    def concat_states(self, states: Sequence[State]) -> State:
        """See `Backend`."""
        return tuple(stream for state in states for stream in state)

    def split_state(self, state: State) -> list[State]:
        """See `Backend`."""
        return [(stream,) for stream in state]


def has_native_step(path: Path) -> bool:
    """Return whether an archive has the table of its weights (native.json), which the native step needs."""
    with zipfile.ZipFile(path) as archive:
        return NATIVE in archive.namelist()


def native_family() -> str:
    """Return the processor family whose native code would run here.

    Raises:
        ImportError: wenet-fusion-kernels is not installed, or its library does not load.
        ValueError: WENET_FUSION_ISA names a family that does not run here.
    """
    found: str = _import_kernels().chosen_family()
    return found


def is_native_faster() -> bool:
    """Return whether wenet-fusion-kernels is installed and was measured to be faster than onnxruntime on this kind of
    processor.
    """
    try:
        return bool(_import_kernels().is_measured())
    except ImportError:
        return False


def load_native(path: Path, meta: Meta, threads: int = 1) -> NativeBackend:
    """Load an archive for the native step.

    Args:
        path: the archive.
        meta: its metadata.
        threads: number of threads of a call of onnxruntime, which rescores.
    Raises:
        ImportError: wenet-fusion-kernels, or onnxruntime for a model with a decoder, is not installed.
        ValueError: a member is missing or damaged, or the members do not fit together.
    """
    with zipfile.ZipFile(path) as archive:
        content, step = read_member(archive, NATIVE, path), read_member(archive, STEP, path)
        rescore = read_member(archive, RESCORE, path) if meta.decoder else None
    kernels = _import_kernels()
    family = kernels.chosen_family()
    if rescore is not None and importlib.util.find_spec("onnxruntime") is None:
        raise ImportError(
            f"{path}: its attention decoders run on onnxruntime, which is not installed: "
            "pip install 'wenet-fusion-runtime[onnx]'"
        )
    try:
        table = NativeTable.parse(content)
        model = kernels.FusedModel(kernels.Sizes(**table.sizes), table.arrays(step), table.ranges, family)
        if model.sizes.frame_samples != meta.frame_samples:
            raise ValueError(f"has frames of {model.sizes.frame_samples} samples, meta.json of {meta.frame_samples}")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: {NATIVE} {error}; export the model again with this version, or use --backend onnxruntime"
        ) from None
    check_head(meta, model.sizes.vocabulary, str(path))
    return NativeBackend(model, rescore, threads, str(path))


def _import_kernels() -> Any:
    try:
        return importlib.import_module(PACKAGE)
    except (ImportError, OSError, MemoryError) as error:
        raise unusable_package(PACKAGE, _MISSING, error) from error
