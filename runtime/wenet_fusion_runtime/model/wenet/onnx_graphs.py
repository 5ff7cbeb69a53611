"""WeNet's ONNX exports (encoder, CTC head and decoder), called as WeNet's onnxruntime program calls them.

Shapes: C cached frames, M encoder frames of a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from wenet_fusion_runtime.model.onnx_backend import open_session
from wenet_fusion_runtime.model.wenet.graph_metadata import GraphMetadata
from wenet_fusion_runtime.model.wenet.row_backend import MOST_FRAMES, Geometry, GraphState

if TYPE_CHECKING:
    import onnxruntime

_INPUTS = ("chunk", "offset", "required_cache_size", "att_cache", "cnn_cache", "att_mask")
_EXPORT = "export the checkpoint again with wenet/bin/export_onnx_cpu.py --chunk_size 16 --num_decoding_left_chunks 4"


class CacheLayout(NamedTuple):
    """The fixed chunking of a graph, and the sizes of its caches.

    >>> layout = CacheLayout(chunk=16, left=4, blocks=12, heads=4, width=256, kernel=15)
    >>> layout.fresh().offset, layout.fresh().att_cache.shape, layout.fresh().cnn_cache.shape
    (64, (12, 4, 64, 128), (12, 1, 256, 14))
    >>> layout.mask(80).reshape(5, 16).any(1).tolist()  # the second chunk sees the first one and itself
    [False, False, False, True, True]
    """

    chunk: int  # encoder frames
    left: int  # chunks of left context; negative: all frames
    blocks: int
    heads: int
    width: int
    kernel: int

    @property
    def required(self) -> int:
        """The number of frames to cache, as an input of the graphs; negative for all frames."""
        return self.chunk * self.left

    @property
    def shown_left(self) -> int:
        """The left context in chunks; if unlimited, the most chunks that a stream has between two fresh states."""
        return self.left if self.left >= 0 else -(-MOST_FRAMES // self.chunk)

    def fresh(self) -> GraphState:
        """Return the state before the first frame. A limited cache starts as zeros, and the offset counts these."""
        cached = max(self.required, 0)
        attention = np.zeros((self.blocks, self.heads, cached, self.width // self.heads * 2), np.float32)
        convolution = np.zeros((self.blocks, 1, self.width, max(self.kernel - 1, 0)), np.float32)
        return GraphState(cached, attention, convolution)

    def mask(self, offset: int) -> np.ndarray:
        """Return the mask (1, 1, C + chunk) that hides the zeros with which a cache started."""
        mask = np.ones(self.required + self.chunk, bool)
        chunks = offset // self.chunk - self.left
        if chunks < self.left:
            mask[: (self.left - chunks) * self.chunk] = False
        return mask[None, None]


class OnnxGraphs:
    """Run encoder.onnx, ctc.onnx and decoder.onnx; see `Graphs`. The chunk size was fixed at export.

    Args:
        encoder: session of encoder.onnx.
        ctc: session of ctc.onnx.
        decoder: session of decoder.onnx.
        layout: chunking and cache sizes.

    >>> hasattr(OnnxGraphs, "encode") and hasattr(OnnxGraphs, "decode")
    True
    """

    def __init__(
        self,
        encoder: onnxruntime.InferenceSession,
        ctc: onnxruntime.InferenceSession,
        decoder: onnxruntime.InferenceSession,
        layout: CacheLayout,
    ) -> None:
        self._encoder, self._ctc, self._decoder, self.layout = encoder, ctc, decoder, layout
        self._inputs = [node.name for node in encoder.get_inputs()]
        (self._hidden,) = [node.name for node in ctc.get_inputs()]
        self._decoder_inputs = [node.name for node in decoder.get_inputs()]

    def fresh(self, chunk: int, left: int) -> GraphState:
        """See `CacheLayout.fresh`."""
        return self.layout.fresh()

    def encode(
        self, features: np.ndarray, chunk: int, left: int, state: GraphState
    ) -> tuple[np.ndarray, np.ndarray, GraphState]:
        """Run one chunk; see `Graphs`."""
        values = {
            "chunk": features,
            "offset": np.array(state.offset, np.int64),
            "required_cache_size": np.array(self.layout.required, np.int64),
            "att_cache": state.att_cache,
            "cnn_cache": state.cnn_cache,
        }
        if "att_mask" in self._inputs:
            values["att_mask"] = self.layout.mask(state.offset)
        outputs = self._encoder.run(None, {name: values[name] for name in self._inputs})
        log_probs = self._ctc.run(None, {self._hidden: outputs[0]})[0]
        return outputs[0], log_probs, GraphState(state.offset + outputs[0].shape[1], outputs[1], outputs[2])

    def decode(self, hyps: np.ndarray, lengths: np.ndarray, encoder_out: np.ndarray) -> Sequence[np.ndarray]:
        """Run both decoders; see `Graphs`."""
        return self._decoder.run(None, dict(zip(self._decoder_inputs, (hyps, lengths, encoder_out))))

    def use_one_thread(self) -> None:
        """Do nothing: the number of threads was set when the graphs were opened."""


class OnnxModel(NamedTuple):
    """The graphs of a folder and the contents of their metadata."""

    graphs: OnnxGraphs
    geometry: Geometry
    bins: int
    sample_rate: int | None  # None: not stated
    reverse_weight: float


def load_onnx_graphs(encoder: Path, ctc: Path, decoder: Path, threads: int) -> OnnxModel:
    """Open the graphs of a folder.

    Args:
        encoder: file of the encoder.
        ctc: file of the CTC head.
        decoder: file of the decoder.
        threads: number of threads of one call.
    Raises:
        ImportError: onnxruntime is not installed.
        ValueError: a graph cannot be loaded, does not come from WeNet, or was exported for whole recordings.
    """
    first, second, third = (open_session(path.read_bytes(), str(path), threads) for path in (encoder, ctc, decoder))
    found = GraphMetadata(first.get_modelmeta().custom_metadata_map, str(encoder))
    layout = _layout(found, encoder)
    names = [node.name for node in first.get_inputs()]
    if foreign := sorted(set(names) - set(_INPUTS)):
        raise ValueError(f"{encoder}: its inputs {', '.join(foreign)} are none of WeNet's; {_EXPORT}")
    if layout.left <= 0 and "att_mask" in names:
        raise ValueError(
            f"{encoder}: takes a mask, which needs a positive left_chunks, but its metadata say {layout.left}; "
            f"{_EXPORT}"
        )
    for session, path, count in ((second, ctc, 1), (third, decoder, 3)):
        if len(session.get_inputs()) != count:
            raise ValueError(f"{path}: has {len(session.get_inputs())} inputs, expected {count}; {_EXPORT}")
    is_bidirectional = found.flag("is_bidirectional_decoder")
    # The weight is part of the graph: at 0, the graph leaves the right-to-left decoder out.
    reverse_weight = found.weight("reverse_weight", 0.0) if is_bidirectional else 0.0
    geometry = Geometry(
        found.integer("subsampling_rate", 1),
        found.integer("right_context"),
        found.integer("sos_symbol"),
        found.integer("eos_symbol"),
        is_bidirectional and reverse_weight > 0,
    )
    bins = found.integer("feature_size", 1) if "feature_size" in found.values else 80
    return OnnxModel(OnnxGraphs(first, second, third, layout), geometry, bins, found.sample_rate(), reverse_weight)


def _layout(found: GraphMetadata, path: Path) -> CacheLayout:
    if (chunk := found.integer("chunk_size", -1)) < 1:
        raise ValueError(f"{path}: was exported for whole recordings (chunk_size {chunk}), not for streams; {_EXPORT}")
    return CacheLayout(
        chunk,
        found.integer("left_chunks", -1),
        found.integer("num_blocks", 1),
        found.integer("head", 1),
        found.integer("output_size", 1),
        found.integer("cnn_module_kernel"),
    )
