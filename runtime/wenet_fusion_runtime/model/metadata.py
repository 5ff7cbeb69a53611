"""The metadata of an exported file, read from its meta.json."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from wenet_fusion_runtime.audio.sample_formats import check_format
from wenet_fusion_runtime.console import SHOWN, visible
from wenet_fusion_runtime.results.timestamps import EmissionDelay
from wenet_fusion_runtime.results.vocabulary import BLANK, SOS_EOS, Vocabulary

TORCHSCRIPT = "wenet_fusion.torchscript"
ONNX = "wenet_fusion.onnx"
KINDS = (TORCHSCRIPT, ONNX)
FORMAT = 2
DYNAMIC = "int8-dynamic"  # the precision whose scales are computed for each block
MAX_SIZE = 1 << 24  # samples or frames; a larger number in meta.json is a mistake
WHOLE = 1 << 30  # frames of a chunk that holds any recording
MAX_CACHED = 1 << 20  # frames of left context: 11 hours at 40 ms
MAX_WEIGHT = 1000.0  # largest weight of a score, and largest penalty in nats: more would outweigh all other scores
MAX_SHIFT_SECONDS = 10.0  # a larger correction of word timestamps is a mistake
VOCABULARY_SIZE = "vocabulary_size"  # name under which a model's graph states its number of tokens
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # control characters, line ends, surrogates
_LAID_OUT = {ord(mark): None for mark in "\n\r\t"}  # allowed in `config`, the YAML of the training
TRAINED, ANY, FIXED = "trained", "any", "fixed"  # which chunks a model accepts: see `Meta.check_chunk`
BATCH, CACHE = "batch", "cache"  # names of the state's axes whose sizes vary from call to call


class StateTensor(NamedTuple):
    """One tensor of a stream's state in an ONNX archive; it starts as zeros.

    >>> StateTensor("cache", "float32", (BATCH, CACHE, 64)).sizes(batch=2, cached=8)
    [2, 8, 64]
    """

    name: str
    dtype: str  # "float32" or "int64"
    shape: tuple[int | str, ...]  # BATCH: rows, always first; CACHE: cached frames, chunk * left

    def sizes(self, batch: int, cached: int) -> list[int]:
        """Return the shape for `batch` rows and `cached` frames."""
        named = {BATCH: batch, CACHE: cached}
        return [named[size] if isinstance(size, str) else size for size in self.shape]


@dataclass(frozen=True)
class Meta:
    """The metadata of an exported file. Frames are encoder frames.

    >>> meta = read_meta("final.zip")  # doctest: +SKIP
    >>> meta.sample_rate, meta.chunk_sizes, meta.left(16)  # doctest: +SKIP
    (16000, (4, 8, 16), 4)
    """

    kind: str  # one of KINDS, or a kind of `model/wenet/wenet_files.py`
    sample_rate: int  # Hz
    frame_samples: int  # samples per frame
    right_padding_samples: int  # zeros appended to every utterance
    chunkings: tuple[tuple[int, int], ...]  # trained pairs: frames per chunk, chunks of left context
    default_chunk: int  # frames
    default_left: int  # chunks
    vocabulary: Vocabulary
    decoder: bool  # has a left-to-right attention decoder
    reverse_decoder: bool  # has a right-to-left attention decoder too
    ctc_weight: float  # default weight of the CTC score in rescoring
    reverse_weight: float  # default weight of the right-to-left decoder in rescoring
    emission_delay: EmissionDelay  # zeros if export has not measured it
    state: tuple[StateTensor, ...]  # state of an ONNX archive; empty for TorchScript, which makes its own state
    precision: str
    requires: str  # engine that runs the file: "none" (any torch), a quantized engine of torch, or "onnxruntime"
    latency: Mapping[str, Any]  # by chunk size; this field and the next three are for information only
    config: str  # YAML of the training
    versions: Mapping[str, Any]  # versions of the packages that wrote the file
    verification: Mapping[str, Any]  # numbers that export measured
    lookahead_samples: int = 0  # samples that a step reads beyond those of its last frame
    chunk_rule: str = TRAINED  # TRAINED, ANY or FIXED
    restarts: bool = False  # streams take a fresh state in the silence after a segment, because positions are limited
    batches: bool = True  # one step of many streams costs less than a step for each of them
    limits: tuple[str, ...] = ()  # what the model cannot do, for information

    @property
    def frame_seconds(self) -> float:
        """Duration of an encoder frame."""
        return self.frame_samples / self.sample_rate

    @property
    def chunk_sizes(self) -> tuple[int, ...]:
        """Frames per chunk that the model was trained for, ascending."""
        return tuple(sorted({size for size, _ in self.chunkings}))

    def left(self, chunk: int) -> int:
        """Return the left context, in chunks, for chunks of `chunk` frames.

        It is the longest trained one. For an untrained chunk size it covers at least as many frames as the default.
        """
        trained = [left for size, left in self.chunkings if size == chunk]
        return max(trained) if trained else -(-self.default_chunk * self.default_left // chunk)

    def check_chunk(self, chunk: int, left: int, allow_untrained: bool = False) -> None:
        """Check that the model accepts chunks of `chunk` frames with `left` chunks of left context.

        `chunk_rule` determines which pairs it accepts: those used in training, any, or only the one of the export.

        Args:
            chunk: frames.
            left: chunks.
            allow_untrained: accept every possible pair, unless the file was exported for one.
        Raises:
            ValueError: the pair is impossible or not accepted; the message lists the accepted pairs.
        """
        if chunk < 1 or left < 0:
            raise ValueError(f"chunk {chunk} must be at least 1 frame and left {left} at least 0 chunks")
        if chunk > WHOLE or chunk * left > MAX_CACHED:
            raise ValueError(f"chunk {chunk} must be at most {WHOLE}, and its left context {MAX_CACHED} frames")
        if (chunk, left) in self.chunkings or self.chunk_rule == ANY:
            return
        if self.chunk_rule == FIXED:
            raise ValueError(
                f"chunk {chunk} with left context {left}: the file was exported for chunks of "
                f"{self.default_chunk} frames with {self.default_left} to the left; choose these, or export it again"
            )
        if not allow_untrained:
            pairs = ", ".join(f"{size}/{trained}" for size, trained in self.chunkings)
            raise ValueError(
                f"chunk {chunk} with left context {left}: the model was not trained for it; choose one of "
                f"{pairs} (frames per chunk / chunks to the left)"
            )


def parse_meta(record: Mapping[str, Any], source: str) -> Meta:
    """Check the fields of meta.json and return them as `Meta`.

    Args:
        record: content of meta.json.
        source: name of the file in messages.
    Raises:
        ValueError: a field is missing or wrong, or the file has another format version.
    """
    try:
        _check_format(record)
        _check_texts(record)
        chunkings = tuple((int(pair["size"]), int(pair["left"])) for pair in record["chunkings"])
        default = int(record["default_chunking"]["size"]), int(record["default_chunking"]["left"])
        sizes = [int(record["sample_rate"]), int(record["frame_samples"]), *(size for size, _ in chunkings)]
        if min(sizes) < 1 or min([int(record["tail_samples"]), *(left for _, left in chunkings)]) < 0:
            raise ValueError(
                "sample_rate, frame_samples and chunk sizes must be at least 1, tail_samples and left not negative"
            )
        vocabulary = Vocabulary(record["units"], record["tokenizer"]["join"])
        if record.get("units_sha256", vocabulary.sha256) != vocabulary.sha256:  # earlier exports wrote none
            raise ValueError("its units are not those that were exported with the model")
        for name, kind in (("latency", dict), ("versions", dict), ("verification", dict), ("config", str)):
            if not isinstance(record[name], kind):
                raise ValueError(f"{name} must be {'an object' if kind is dict else 'a text'}")
        if not isinstance(record["precision"], str) or not isinstance(record["engine"], str):
            raise ValueError("precision and engine must be texts")
        if default not in chunkings:
            raise ValueError(f"default_chunking {default} is not among chunkings {chunkings}")
        check_format(int(record["sample_rate"]))
        longest = max(int(record["tail_samples"]), sizes[1] * max(size for size, _ in chunkings))
        if longest > MAX_SIZE or max(size * left for size, left in chunkings) > MAX_CACHED:
            raise ValueError(
                f"a chunk and tail_samples must have at most {MAX_SIZE} samples, a left context {MAX_CACHED} frames"
            )
        return Meta(
            kind=record["kind"],
            sample_rate=int(record["sample_rate"]),
            frame_samples=int(record["frame_samples"]),
            right_padding_samples=int(record["tail_samples"]),
            chunkings=chunkings,
            default_chunk=default[0],
            default_left=default[1],
            vocabulary=vocabulary,
            decoder=_flag(record, "decoder"),
            reverse_decoder=_flag(record, "reverse_decoder"),
            ctc_weight=_weight(record, "ctc_weight", MAX_WEIGHT),
            reverse_weight=_weight(record, "reverse_weight", 1.0 if record["reverse_decoder"] else 0.0),
            emission_delay=_emission_delay(record.get("word_times")),
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


def check_head(meta: Meta, size: int | str | None, source: str) -> None:
    """Check that the vocabulary in the metadata has as many tokens as the model scores.

    Args:
        meta: the metadata of a file.
        size: number of tokens that the graph states; None: an earlier export, which states none.
        source: name of the file in messages.
    Raises:
        ValueError: the numbers differ.
    """
    if size is not None and str(size) != str(len(meta.vocabulary)):
        raise ValueError(
            f"{source}: meta.json has {len(meta.vocabulary)} units, the model scores {size}: they belong to different "
            "models; export the model again"
        )


def _check_format(record: Mapping[str, Any]) -> None:
    if record["kind"] not in KINDS:
        raise ValueError(f"is a {visible(repr(record['kind']), SHOWN)}, expected {' or '.join(map(repr, KINDS))}")
    if record["format"] != FORMAT:
        raise ValueError(f"has format {visible(repr(record['format']), SHOWN)}, expected {FORMAT}")
    if (record["blank"], record["sos_eos"]) != (BLANK, SOS_EOS):
        raise ValueError(
            f"blank and sos_eos must be {BLANK} and {SOS_EOS}, found {visible(repr(record['blank']), SHOWN)} and "
            f"{visible(repr(record['sos_eos']), SHOWN)}"
        )


def _check_texts(record: Mapping[str, Any]) -> None:
    """Raise ValueError if a key or a text value of the record has characters that could steer a terminal or a log."""
    left: list[tuple[str, Any]] = list(record.items())
    texts = [("the key", name) for name in record]
    while left:
        name, value = left.pop()
        if isinstance(value, str):
            texts.append((name, value.translate(_LAID_OUT) if name == "config" else value))
        elif isinstance(value, Mapping):
            left += [(name, part) for part in (*value, *value.values())]
        elif isinstance(value, list):
            left += [(name, part) for part in value]
    for name, text in texts:
        if _CONTROL.search(text):
            raise ValueError(f"{name} {visible(text, SHOWN)} contains a control character")


def _flag(record: Mapping[str, Any], name: str) -> bool:
    if not isinstance(record[name], bool):
        raise ValueError(f"{name} must be true or false, found {visible(repr(record[name]), SHOWN)}")
    return record[name]


def _weight(record: Mapping[str, Any], name: str, most: float) -> float:
    found = float(record["decoding"][name])
    if not 0 <= found <= most:  # also true for NaN
        raise ValueError(f"{name} must be 0 to {most:g}, found {found:g}")
    return found


def _emission_delay(record: Mapping[str, Any] | None) -> EmissionDelay:
    if record is None:
        return EmissionDelay()
    found = EmissionDelay(*(float(record[name]) for name in EmissionDelay._fields))
    if not all(abs(shift) <= MAX_SHIFT_SECONDS for shift in found):
        raise ValueError(
            f"word_times {list(found)} must be seconds between -{MAX_SHIFT_SECONDS:g} and {MAX_SHIFT_SECONDS:g}"
        )
    return found


def _state_tensor(name: str, dtype: str, shape: list[int | str]) -> StateTensor:
    if dtype not in ("float32", "int64"):
        raise ValueError(f"state {name} has dtype '{dtype}', expected float32 or int64")
    known = all(size in (BATCH, CACHE) or (type(size) is int and 0 <= size <= MAX_SIZE) for size in shape)
    if not known or list(shape[:1]) != [BATCH]:
        raise ValueError(f"state {name} has shape {shape}, expected '{BATCH}', then numbers or '{CACHE}'")
    if math.prod(size for size in shape if isinstance(size, int)) > MAX_SIZE or shape.count(CACHE) > 1:
        raise ValueError(f"state {name} has shape {shape}, which is too large")
    return StateTensor(name, dtype, tuple(shape))


def _remedy(record: Mapping[str, Any]) -> str:
    found = record.get("format") if isinstance(record, Mapping) else None
    return "update wenet-fusion-runtime" if isinstance(found, int) and found > FORMAT else "export the model again"
