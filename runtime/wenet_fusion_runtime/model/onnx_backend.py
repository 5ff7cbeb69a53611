"""The backend of ONNX archives: onnxruntime, without torch.

An archive is a zip with meta.json, step.onnx, and rescore.onnx if the model has an attention decoder. step.onnx runs
one chunk: inputs `samples` (B, N), `lengths` (B,), `state_0`, `state_1`, ...; outputs in the order of `StepScores`,
then the next state. A chunk attends to all cached frames, so the graph has no inputs for chunk and left context.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wenet_fusion_runtime.console import is_out_of_memory, unusable_package
from wenet_fusion_runtime.model.acoustic_model import StepScores
from wenet_fusion_runtime.model.archive_members import read_member
from wenet_fusion_runtime.model.conformance import MEMORY, check_state
from wenet_fusion_runtime.model.metadata import CACHE, VOCABULARY_SIZE, Meta, check_head

if TYPE_CHECKING:
    import onnxruntime

STEP, RESCORE = "step.onnx", "rescore.onnx"
SCORES = len(StepScores._fields)
_TYPES = {"float32": "tensor(float)", "int64": "tensor(int64)"}
_LOG_NOTHING = 4  # severity level of onnxruntime: its errors are raised, so it need not log them

State = tuple[np.ndarray, ...]


class RescoringGraph:
    """The graph that scores hypotheses.

    Args:
        content: content of rescore.onnx; None if the model has no decoder.
        threads: number of threads of one call.
        source: name of the archive in messages.
    Raises:
        ImportError, ValueError: see `OnnxBackend`.

    >>> RescoringGraph(None).rescore(np.zeros((1, 5, 4)), np.zeros((3, 2)), np.zeros(3)).shape
    (3, 2)
    """

    def __init__(self, content: bytes | None, threads: int = 1, source: str = MEMORY) -> None:
        self._session = None
        if content is not None:
            inputs = {"encoder_out": _TYPES["float32"], "hyps": _TYPES["int64"], "hyp_lengths": _TYPES["int64"]}
            self._session = _session(content, f"{source}: {RESCORE}", inputs, 1, threads)

    def rescore(self, encoder_out: np.ndarray, hyps: np.ndarray, hyp_lengths: np.ndarray) -> np.ndarray:
        """See `Backend`; zeros if the model has no decoder."""
        if self._session is None:
            return np.zeros((len(hyps), 2), dtype=np.float32)
        return self._session.run(None, {"encoder_out": encoder_out, "hyps": hyps, "hyp_lengths": hyp_lengths})[0]


class OnnxBackend:
    """Run the graphs of an archive.

    Args:
        step: content of step.onnx.
        rescore: content of rescore.onnx; None if the model has no decoder.
        meta: metadata of the archive.
        threads: number of threads of one call.
        source: name of the archive in messages.
    Raises:
        ImportError: onnxruntime is not installed.
        ValueError: the installed onnxruntime cannot run a graph, or its inputs or outputs differ from `meta`.

    >>> from types import SimpleNamespace
    >>> OnnxBackend(b"", None, SimpleNamespace(state=()), threads=0)
    Traceback (most recent call last):
    ValueError: threads must be at least 1, found 0
    """

    def __init__(self, step: bytes, rescore: bytes | None, meta: Meta, threads: int = 1, source: str = MEMORY) -> None:
        self._state = meta.state
        self._names = [f"state_{index}" for index in range(len(meta.state))]
        inputs = {"samples": _TYPES["float32"], "lengths": _TYPES["int64"]}
        inputs |= {name: _TYPES[tensor.dtype] for name, tensor in zip(self._names, meta.state)}
        self._step = _session(step, f"{source}: {STEP}", inputs, SCORES + len(meta.state), threads)
        check_head(meta, self._step.get_modelmeta().custom_metadata_map.get(VOCABULARY_SIZE), source)
        self._rescoring = RescoringGraph(rescore, threads, source)

    def init_state(self, batch: int, chunk: int, left: int) -> State:
        """Return zeros in the shapes that the metadata describe."""
        return tuple(np.zeros(tensor.sizes(batch, chunk * left), tensor.dtype) for tensor in self._state)

    def step(
        self, samples: np.ndarray, lengths: np.ndarray, chunk: int, left: int, state: State
    ) -> tuple[StepScores, State]:
        """Run one chunk; see `Backend`.

        Raises:
            ValueError: the state was made for another chunk size or left context.
            Mismatch: the next state does not have the shapes that the metadata describe.
        """
        for tensor, (name, _, shape) in zip(state, self._state):
            cached = tensor.shape[shape.index(CACHE)] if CACHE in shape else chunk * left
            if cached != chunk * left:
                raise ValueError(
                    f"state {name} holds {cached} frames, but chunk {chunk} with left context {left} "
                    f"needs {chunk * left}; give init_state the same chunk and left context"
                )
        inputs = {"samples": samples, "lengths": lengths, **dict(zip(self._names, state))}
        outputs = self._step.run(None, inputs)
        check_state(outputs[SCORES:], state)
        return StepScores(*outputs[:SCORES]), tuple(outputs[SCORES:])

    def rescore(self, encoder_out: np.ndarray, hyps: np.ndarray, hyp_lengths: np.ndarray) -> np.ndarray:
        """See `Backend`; zeros if the model has no decoder."""
        return self._rescoring.rescore(encoder_out, hyps, hyp_lengths)

    def concat_states(self, states: Sequence[State]) -> State:
        """See `Backend`."""
        return tuple(np.concatenate(tensors) for tensors in zip(*states))

    def split_state(self, state: State) -> list[State]:
        """See `Backend`. The rows are copies, because views would keep the whole batch in memory."""
        return [tuple(tensor[row : row + 1].copy() for tensor in state) for row in range(len(state[0]))]


def load_onnx(path: Path, meta: Meta, threads: int = 1) -> OnnxBackend:
    """Load an archive.

    Args:
        path: the archive.
        meta: its metadata.
        threads: number of threads of one call.
    Raises:
        ImportError, ValueError: see `OnnxBackend`; ValueError also if a member is missing or damaged.
    """
    with zipfile.ZipFile(path) as archive:
        step = read_member(archive, STEP, path)
        rescore = read_member(archive, RESCORE, path) if meta.decoder else None
    return OnnxBackend(step, rescore, meta, threads, str(path))


def _session(
    graph: bytes, source: str, inputs: dict[str, str], outputs: int, threads: int
) -> onnxruntime.InferenceSession:
    """Load a graph and check its inputs (names and types) and its number of outputs."""
    session = open_session(graph, source, threads)
    found = {node.name: node.type for node in session.get_inputs()}
    if found != inputs:
        differing = sorted({name for name, _ in found.items() ^ inputs.items()})
        raise ValueError(f"{source}: its inputs {', '.join(differing)} differ from meta.json; export the model again")
    if len(session.get_outputs()) != outputs:
        raise ValueError(
            f"{source}: has {len(session.get_outputs())} outputs, expected {outputs}; export the model again"
        )
    return session


def open_session(graph: bytes, source: str, threads: int) -> onnxruntime.InferenceSession:
    """Open a graph for the CPU.

    Args:
        graph: content of an ONNX file.
        source: its name in messages.
        threads: number of threads of one call.
    Raises:
        ImportError: onnxruntime is not installed.
        ValueError: onnxruntime cannot load the graph, or `threads` is below 1.
    """
    if threads < 1:
        raise ValueError(f"threads must be at least 1, found {threads}")
    ort = _import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _LOG_NOTHING
    try:
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base class
        if is_out_of_memory(error):
            raise
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{source}: onnxruntime {ort.__version__} cannot load it ({reason}); "
            "update onnxruntime or export the model again"
        ) from None


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except (ImportError, OSError, MemoryError, RuntimeError) as error:
        missing = "this model runs on onnxruntime, which is not installed: pip install 'wenet-fusion-runtime[onnx]'"
        raise unusable_package("onnxruntime", missing, error) from error
    return onnxruntime
