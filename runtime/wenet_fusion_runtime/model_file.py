"""Loads an exported file and runs it. The only file that knows its method names, its metadata and torch."""

from __future__ import annotations

import contextlib
import json
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator, Mapping, NamedTuple, Sequence

import numpy as np

from wenet_fusion_runtime.search import FrameScores
from wenet_fusion_runtime.units import BLANK, SOS_EOS, Units

if TYPE_CHECKING:
    import torch

KIND = "wenet_fusion.torchscript"
FORMAT = 1
QUANTISED_ENGINES = ("fbgemm", "onednn", "qnnpack", "x86")
_EXPORT = "export it first: wenet-fusion export CHECKPOINT OUT"


@dataclass(frozen=True)
class Meta:
    """What an exported file says about itself. Frames are encoder frames."""

    sample_rate: int                    # Hz
    frame_samples: int                  # samples per frame
    tail_samples: int                   # zero samples that end every utterance
    chunkings: tuple[tuple[int, int], ...]    # trained pairs: frames per chunk, chunks seen to the left
    default_chunk: int                  # frames
    default_left: int                   # chunks seen to the left
    units: Units
    decoder: bool                       # has a left-to-right attention decoder
    reverse_decoder: bool               # has a right-to-left one too
    ctc_weight: float                   # defaults for attention rescoring
    reverse_weight: float
    precision: str
    engine: str
    latency: Mapping[str, Any]          # the rest only describes the file; nothing depends on it
    config: str
    versions: Mapping[str, Any]
    verification: Mapping[str, Any]

    @property
    def frame_seconds(self) -> float:
        return self.frame_samples / self.sample_rate

    @property
    def chunk_sizes(self) -> tuple[int, ...]:
        """Frames per chunk that the model was trained for, ascending."""
        return tuple(sorted({size for size, _ in self.chunkings}))

    def left(self, chunk: int) -> int:
        """Left context for chunks of `chunk` frames: the longest it was trained with, and for an untrained size as many
        frames as the default spans, in whole chunks."""
        trained = [left for size, left in self.chunkings if size == chunk]
        return max(trained) if trained else -(-self.default_chunk * self.default_left // chunk)

    def check_chunk(self, chunk: int, left: int, allow_untrained: bool = False) -> None:
        """Raises ValueError unless the model was trained for chunks of `chunk` frames with `left` of them visible to
        the left, or `allow_untrained` and they are possible."""
        if chunk < 1 or left < 0:
            raise ValueError(f"chunk {chunk} must be at least 1 frame and left {left} at least 0 chunks")
        if (chunk, left) not in self.chunkings and not allow_untrained:
            pairs = ", ".join(f"{size}/{trained}" for size, trained in self.chunkings)
            raise ValueError(f"chunk {chunk} with left context {left}: the model was not trained for it; choose one of "
                             f"{pairs} (frames per chunk / chunks to the left)")


def parse_meta(record: Mapping[str, Any], source: str) -> Meta:
    """Meta from the fields of meta.json; `source` names the file in messages.

    Raises:
        ValueError: a field is missing or wrong, or the file was written for another runtime.
    """
    try:
        _check_identity(record)
        chunkings = tuple((int(pair["size"]), int(pair["left"])) for pair in record["chunkings"])
        default = int(record["default_chunking"]["size"]), int(record["default_chunking"]["left"])
        if default not in chunkings:
            raise ValueError(f"default_chunking {default} is not among chunkings {chunkings}")
        return Meta(
            sample_rate=int(record["sample_rate"]),
            frame_samples=int(record["frame_samples"]),
            tail_samples=int(record["tail_samples"]),
            chunkings=chunkings,
            default_chunk=default[0],
            default_left=default[1],
            units=Units(record["units"], record["tokenizer"]["join"]),
            decoder=bool(record["decoder"]),
            reverse_decoder=bool(record["reverse_decoder"]),
            ctc_weight=float(record["decoding"]["ctc_weight"]),
            reverse_weight=float(record["decoding"]["reverse_weight"]),
            precision=record["precision"],
            engine=record["engine"],
            latency=record["latency"],
            config=record["config"],
            versions=record["versions"],
            verification=record["verification"],
        )
    except KeyError as error:
        raise ValueError(f"{source}: meta.json has no key {error}; export the model again") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source}: meta.json: {error}; {_remedy(record)}") from None


def _check_identity(record: Mapping[str, Any]) -> None:
    if record["kind"] != KIND:
        raise ValueError(f"is a '{record['kind']}', this runtime runs '{KIND}'")
    if record["format"] != FORMAT:
        raise ValueError(f"has format {record['format']}, this runtime reads {FORMAT}")
    if (record["blank"], record["sos_eos"]) != (BLANK, SOS_EOS):
        raise ValueError(f"blank and sos_eos must be {BLANK} and {SOS_EOS}, "
                         f"found {record['blank']} and {record['sos_eos']}")


def _remedy(record: Mapping[str, Any]) -> str:
    found = record.get("format") if isinstance(record, Mapping) else None
    return "update wenet-fusion-runtime" if isinstance(found, int) and found > FORMAT else "export the model again"


class StepScores(NamedTuple):
    """What one step returns for B rows of T frames; frames past a row's length mean nothing."""

    encoder_out: torch.Tensor    # (B, T, D), for `AcousticModel.rescore`
    lengths: np.ndarray          # (B,) int64 valid frames
    log_probs: np.ndarray        # (B, T, K) float32, descending
    ids: np.ndarray              # (B, T, K) int64
    blank: np.ndarray            # (B, T) float32

    def row(self, index: int) -> tuple[FrameScores, torch.Tensor]:
        """The valid frames of one row: scores, and encoder output (1, T, D).

        Raises:
            ValueError: the model returned NaN.
        """
        length = int(self.lengths[index])
        scores = FrameScores(self.log_probs[index, :length], self.ids[index, :length], self.blank[index, :length])
        if np.isnan(scores.blank).any():
            raise ValueError("the model's output is not a number; the model is damaged or its training diverged")
        return scores, self.encoder_out[index : index + 1, :length]


class AcousticModel:
    """A module with the exported methods, loaded from a file or in memory, behind numpy arrays. Read-only, shareable.

    Args:
        module: a torch module in eval mode with `init_state`, `step` and `rescore`.
        meta: what it says about itself.
        device: torch device that holds the module.
    Raises:
        ImportError: torch is not installed.
        ValueError: the module is in training mode.
    """

    def __init__(self, module: torch.nn.Module, meta: Meta, device: str = "cpu") -> None:
        if getattr(module, "training", False):    # a frozen module has no such attribute
            raise ValueError("the model is in training mode; call its eval() first")
        self.meta = meta
        self._module = module
        self._device = device
        self._torch = _import_torch()

    def init_state(self, batch: int, chunk: int, left: int) -> Any:
        """State before the first sample of `batch` rows, an opaque value."""
        with _plain_inference(self._torch):
            return self._module.init_state(batch, chunk, left)

    def step(
        self, samples: np.ndarray, lengths: Sequence[int], chunk: int, left: int, state: Any
    ) -> tuple[StepScores, Any]:
        """Run whole chunks, only the last of a row may be short; returns scores and the state after them.

        Args:
            samples: (B, N) at the model's rate, clipped to [-1, 1]; N is a multiple of `meta.frame_samples`.
            lengths: valid samples of each row; what follows them is ignored. After a short chunk the state is unusable.
            chunk, left: the values given to `init_state`.
        """
        torch = self._torch
        samples = torch.from_numpy(np.clip(samples, -1.0, 1.0).astype(np.float32, copy=False)).to(self._device)
        lengths = torch.tensor(list(lengths), dtype=torch.int64, device=self._device)
        with _plain_inference(self._torch):
            output, state = self._module.step(samples, lengths, chunk, left, state)
            scores = StepScores(
                output.encoder_out,
                output.lengths.cpu().numpy(),
                output.top_log_probs.float().cpu().numpy(),
                output.top_ids.cpu().numpy(),
                output.blank_log_probs.float().cpu().numpy(),
            )
        return scores, state

    def join(self, steps: Sequence[StepScores]) -> StepScores:
        """Consecutive steps of the same rows as one."""
        if len(steps) == 1:
            return steps[0]
        encoder_out = self._torch.cat([step.encoder_out for step in steps], dim=1)
        lengths = np.sum([step.lengths for step in steps], axis=0)
        scores = [np.concatenate(parts, axis=1) for parts in list(zip(*steps))[2:]]
        return StepScores(encoder_out, lengths, *scores)

    def rescore(self, encoder_blocks: Sequence[torch.Tensor], hypotheses: Sequence[Sequence[int]]) -> np.ndarray:
        """Log-probabilities (N, 2) of whole hypotheses, end included, from both attention decoders.

        Args:
            encoder_blocks: consecutive encoder outputs (1, T, D) of one segment.
            hypotheses: N token sequences, which may be empty.
        """
        torch = self._torch
        lengths = [len(ids) for ids in hypotheses]
        padded = np.zeros((len(lengths), max(lengths)), dtype=np.int64)
        for row, ids in enumerate(hypotheses):
            padded[row, : len(ids)] = ids
        with _plain_inference(self._torch):
            encoder_out = torch.cat(list(encoder_blocks), dim=1)
            hyps = torch.from_numpy(padded).to(self._device)
            hyp_lengths = torch.tensor(lengths, dtype=torch.int64, device=self._device)
            return self._module.rescore(encoder_out, hyps, hyp_lengths).double().cpu().numpy()

    def step_graph(self) -> Any:
        """The inlined TorchScript graph of the step of a loaded file: for tools that show what it runs."""
        return self._module.step.inlined_graph


def read_meta(path: str | Path) -> Meta:
    """Read what an exported file says about itself; needs no torch.

    Raises:
        OSError: the path is missing, a directory or unreadable.
        ValueError: the file is no exported model, or of another format; the message tells what it is and what to do.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such model file")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a directory; give the exported file in it")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: is empty; export the model again")
    try:
        with zipfile.ZipFile(path) as archive:
            inner = {name.partition("/")[2]: name for name in archive.namelist()}
            if not any(name.startswith("code/") for name in inner):
                if "data.pkl" in inner:
                    raise ValueError(f"{path}: is a training checkpoint; {_EXPORT}")
                raise ValueError(f"{path}: is a zip archive but no exported model; {_EXPORT}")
            if "extra/meta.json" not in inner:
                raise ValueError(f"{path}: is TorchScript without meta.json, not written by this project; {_EXPORT}")
            record = json.loads(archive.read(inner["extra/meta.json"]))
    except zipfile.BadZipFile:
        raise ValueError(f"{path}: is no exported model, or a damaged one; {_EXPORT}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: its meta.json is damaged ({error}); export the model again") from None
    return parse_meta(record, str(path))


def load_model(path: str | Path) -> AcousticModel:
    """Load an exported file onto the CPU.

    Raises:
        OSError, ValueError: see `read_meta`; also ValueError when this torch cannot run the file.
        ImportError: torch is not installed.
    """
    meta = read_meta(path)
    torch = _import_torch()
    if meta.engine in QUANTISED_ENGINES and meta.engine not in torch.backends.quantized.supported_engines:
        raise ValueError(f"{path}: needs the engine {meta.engine}, which torch has not on this machine; "
                         "export with precision float32")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(str(path), map_location="cpu")
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{path}: torch {torch.__version__} cannot load it (written by {dict(meta.versions)}): "
                         f"{reason}; export the model again") from None
    return AcousticModel(module, meta)


def _import_torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise ImportError("this model runs on torch, which is not installed: "
                          "pip install 'wenet-fusion-runtime[torch]'") from error
    return torch


@contextlib.contextmanager
def _plain_inference(torch_module: Any) -> Iterator[None]:
    """No autograd, and no profiling runs: they make the first chunks several times slower than the rest."""
    with torch_module.inference_mode(), torch_module.jit.optimized_execution(False):
        yield
