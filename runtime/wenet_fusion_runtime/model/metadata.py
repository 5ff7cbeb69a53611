"""What an exported file says about itself. Knows neither where the record is kept nor what runs the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from wenet_fusion_runtime.results.timestamps import WordTimes
from wenet_fusion_runtime.results.vocabulary import BLANK, SOS_EOS, Vocabulary

TORCHSCRIPT = "wenet_fusion.torchscript"
ONNX = "wenet_fusion.onnx"
KINDS = (TORCHSCRIPT, ONNX)
FORMAT = 2
DYNAMIC = "int8-dynamic"  # a precision whose scales follow each block
MAX_SHIFT_SECONDS = 10.0  # of word_times; more is no delay but a mistake
BATCH, CACHE = "batch", "cache"  # sizes of a state's axes that each stream chooses


class StateTensor(NamedTuple):
    """One tensor of a stream's state in an ONNX archive, zeros at the start."""

    name: str
    dtype: str  # "float32" or "int64"
    shape: tuple[int | str, ...]  # BATCH: rows, always first; CACHE: frames visible to the left, chunk * left


@dataclass(frozen=True)
class Meta:
    """What an exported file says about itself. Frames are encoder frames."""

    kind: str  # one of KINDS
    sample_rate: int  # Hz
    frame_samples: int  # samples per frame
    right_padding_samples: int  # zeros appended to every utterance
    chunkings: tuple[tuple[int, int], ...]  # trained pairs: frames per chunk, chunks seen to the left
    default_chunk: int  # frames
    default_left: int  # chunks seen to the left
    vocabulary: Vocabulary
    decoder: bool  # has a left-to-right attention decoder
    reverse_decoder: bool  # has a right-to-left one too
    ctc_weight: float  # defaults for attention rescoring
    reverse_weight: float
    word_times: WordTimes  # zeros where export was not told when words are spoken
    state: tuple[StateTensor, ...]  # of an ONNX archive; TorchScript makes its own state
    precision: str
    requires: str  # what runs it: "none" (any torch), a quantized engine of torch, or "onnxruntime"
    latency: Mapping[str, Any]  # the rest only describes the file; nothing depends on it
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
            raise ValueError(
                f"chunk {chunk} with left context {left}: the model was not trained for it; choose one of "
                f"{pairs} (frames per chunk / chunks to the left)"
            )


def parse_meta(record: Mapping[str, Any], source: str) -> Meta:
    """Meta from the fields of meta.json; `source` names the file in messages.

    Raises:
        ValueError: a field is missing or wrong, or the file was written for another runtime.
    """
    try:
        _check_identity(record)
        chunkings = tuple((int(pair["size"]), int(pair["left"])) for pair in record["chunkings"])
        default = int(record["default_chunking"]["size"]), int(record["default_chunking"]["left"])
        sizes = [int(record["sample_rate"]), int(record["frame_samples"]), *(size for size, _ in chunkings)]
        if min(sizes) < 1 or min([int(record["tail_samples"]), *(left for _, left in chunkings)]) < 0:
            raise ValueError(
                "sample_rate, frame_samples and chunk sizes must be at least 1, tail_samples and left not negative"
            )
        if default not in chunkings:
            raise ValueError(f"default_chunking {default} is not among chunkings {chunkings}")
        return Meta(
            kind=record["kind"],
            sample_rate=int(record["sample_rate"]),
            frame_samples=int(record["frame_samples"]),
            right_padding_samples=int(record["tail_samples"]),
            chunkings=chunkings,
            default_chunk=default[0],
            default_left=default[1],
            vocabulary=Vocabulary(record["units"], record["tokenizer"]["join"]),
            decoder=bool(record["decoder"]),
            reverse_decoder=bool(record["reverse_decoder"]),
            ctc_weight=float(record["decoding"]["ctc_weight"]),
            reverse_weight=float(record["decoding"]["reverse_weight"]),
            word_times=_word_times(record.get("word_times")),
            state=tuple(_state_tensor(*entry) for entry in record["state"]) if record["kind"] == ONNX else (),
            precision=record["precision"],
            requires=record["engine"],
            latency=record["latency"],
            config=record["config"],
            versions=record["versions"],
            verification=record["verification"],
        )
    except KeyError as error:
        raise ValueError(f"{source}: meta.json has no key {error}; export the model again") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{source}: meta.json: {error}; {_remedy(record)}") from None


def _check_identity(record: Mapping[str, Any]) -> None:
    if record["kind"] not in KINDS:
        raise ValueError(f"is a '{record['kind']}', this runtime runs {' and '.join(map(repr, KINDS))}")
    if record["format"] != FORMAT:
        raise ValueError(f"has format {record['format']}, this runtime reads {FORMAT}")
    if (record["blank"], record["sos_eos"]) != (BLANK, SOS_EOS):
        raise ValueError(
            f"blank and sos_eos must be {BLANK} and {SOS_EOS}, found {record['blank']} and {record['sos_eos']}"
        )


def _word_times(record: Mapping[str, Any] | None) -> WordTimes:
    if record is None:
        return WordTimes()
    found = WordTimes(*(float(record[name]) for name in WordTimes._fields))
    if not all(abs(shift) <= MAX_SHIFT_SECONDS for shift in found):
        raise ValueError(f"word_times {list(found)} must be numbers of seconds, {MAX_SHIFT_SECONDS:g} at most")
    return found


def _state_tensor(name: str, dtype: str, shape: list[int | str]) -> StateTensor:
    if dtype not in ("float32", "int64"):
        raise ValueError(f"state {name} has dtype '{dtype}', expected float32 or int64")
    known = all(isinstance(size, int) or size in (BATCH, CACHE) for size in shape)
    if not known or list(shape[:1]) != [BATCH]:
        raise ValueError(f"state {name} has shape {shape}, expected '{BATCH}', then numbers or '{CACHE}'")
    return StateTensor(name, dtype, tuple(shape))


def _remedy(record: Mapping[str, Any]) -> str:
    found = record.get("format") if isinstance(record, Mapping) else None
    return "update wenet-fusion-runtime" if isinstance(found, int) and found > FORMAT else "export the model again"
