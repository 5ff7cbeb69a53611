"""A streaming CTC model of WeNet in sherpa-onnx's form: one graph that maps whole windows of features to scores.

Shapes: T feature frames, M encoder frames of a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from wenet_fusion_runtime.model.onnx_backend import open_session
from wenet_fusion_runtime.model.wenet.graph_metadata import GraphMetadata
from wenet_fusion_runtime.model.wenet.onnx_graphs import CacheLayout
from wenet_fusion_runtime.model.wenet.row_backend import Geometry, GraphState

if TYPE_CHECKING:
    import onnxruntime

MODEL_TYPE = "wenet_ctc"
BINS = 80
_DEFAULT_CHUNK, _DEFAULT_LEFT = 16, 4  # sherpa-onnx's defaults, for files that do not state them
_INPUTS = 6
_OF_THREE = ("chunk", "hidden", "hyps")  # first inputs of WeNet's encoder, CTC head and decoder
_SILENCE = float(np.log(np.finfo(np.float32).eps))  # the log energy of a mel bin in digital silence


class SherpaGraph:
    """Run a graph as sherpa-onnx does; see `Graphs`. A short last chunk is padded with silence.

    Args:
        session: session of the graph.
        layout: chunking and cache sizes.
        geometry: geometry of its encoder.

    >>> hasattr(SherpaGraph, "encode")
    True
    """

    def __init__(self, session: onnxruntime.InferenceSession, layout: CacheLayout, geometry: Geometry) -> None:
        self._session, self.layout, self._geometry = session, layout, geometry
        inputs = session.get_inputs()
        self._names = [node.name for node in inputs]
        self._number_shapes = [[] if not node.shape else [1] for node in inputs[1:3]]

    def fresh(self, chunk: int, left: int) -> GraphState:
        """See `CacheLayout.fresh`."""
        return self.layout.fresh()

    def encode(
        self, features: np.ndarray, chunk: int, left: int, state: GraphState
    ) -> tuple[np.ndarray, np.ndarray, GraphState]:
        """Run one chunk; see `Graphs`. The graph does not return encoder frames, so their width is 0."""
        window = self._geometry.window(self.layout.chunk)
        frames = (features.shape[1] - self._geometry.right_context - 1) // self._geometry.subsampling + 1
        missing = ((0, 0), (0, window - features.shape[1]), (0, 0))
        numbers = (state.offset, self.layout.required)
        shaped = [np.full(shape, value, np.int64) for shape, value in zip(self._number_shapes, numbers)]
        values = (
            np.pad(features, missing, constant_values=_SILENCE),
            *shaped,
            state.att_cache,
            state.cnn_cache,
            self.layout.mask(state.offset),
        )
        log_probs, att_cache, cnn_cache = self._session.run(None, dict(zip(self._names, values)))[:3]
        new = GraphState(state.offset + log_probs.shape[1], att_cache, cnn_cache)
        return log_probs[:, :frames, :0], log_probs[:, :frames], new

    def decode(self, hyps: np.ndarray, lengths: np.ndarray, encoder_out: np.ndarray) -> Sequence[np.ndarray]:
        """Raise NotImplementedError: the file has no decoder."""
        raise NotImplementedError

    def use_one_thread(self) -> None:
        """Do nothing: the number of threads was set when the graph was opened."""


class SherpaModel(NamedTuple):
    """A graph and the contents of its metadata."""

    graphs: SherpaGraph
    geometry: Geometry
    bins: int
    sample_rate: int | None  # None: not stated


def load_sherpa_graph(path: Path, threads: int) -> SherpaModel:
    """Open a graph.

    Args:
        path: the ONNX file.
        threads: number of threads of one call.
    Raises:
        ImportError: onnxruntime is not installed.
        ValueError: the graph cannot be loaded or is not a streaming CTC model of WeNet; the message says what it is.
    """
    session = open_session(path.read_bytes(), str(path), threads)
    found = GraphMetadata(session.get_modelmeta().custom_metadata_map, str(path))
    inputs = session.get_inputs()
    kind = found.values.get("model_type", MODEL_TYPE)
    if inputs[0].name in _OF_THREE:
        raise ValueError(
            f"{path}: is one of WeNet's three graphs: put encoder.onnx, ctc.onnx and decoder.onnx into one folder with "
            "units.txt, and give the folder"
        )
    if kind != MODEL_TYPE or len(inputs) != _INPUTS or "subsampling_factor" not in found.values:
        named = f"of type '{kind}'" if kind != MODEL_TYPE else f"with the inputs {', '.join(n.name for n in inputs)}"
        raise ValueError(
            f"{path}: is an ONNX graph {named}; this runtime runs sherpa-onnx's streaming models of type {MODEL_TYPE} "
            "(six inputs, metadata), WeNet's folders of three graphs, and its own files (wenet-fusion export --format "
            "onnx). For others use their own program"
        )
    layout = CacheLayout(
        found.integer("chunk_size", 1) if "chunk_size" in found.values else _DEFAULT_CHUNK,
        found.integer("left_chunks", 1) if "left_chunks" in found.values else _DEFAULT_LEFT,
        found.integer("num_blocks", 1),
        found.integer("head", 1),
        found.integer("output_size", 1),
        found.integer("cnn_module_kernel"),
    )
    geometry = Geometry(found.integer("subsampling_factor", 1), found.integer("right_context"), 0, 0, False)
    bins = inputs[0].shape[2] if len(inputs[0].shape) == 3 else BINS
    bins = bins if isinstance(bins, int) else BINS
    return SherpaModel(SherpaGraph(session, layout, geometry), geometry, bins, found.sample_rate())
