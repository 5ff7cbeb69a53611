"""Every export under one roof: which format takes which precision, and what a user is told about the file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Optional, get_args

from wenet_fusion.export.acceptance import ExportOptions
from wenet_fusion.export.speech import ErrorChange, Speech, check_limit
from wenet_fusion.export.targets.onnx_archive import export_onnx_archive
from wenet_fusion.export.targets.sherpa_onnx import TOKENS, export_sherpa_onnx
from wenet_fusion.export.targets.torch_program import export_program
from wenet_fusion.export.targets.torchscript import export_torchscript
from wenet_fusion.export.targets.wenet_onnx import UNITS, ForeignExport, export_wenet_onnx, unit_table
from wenet_fusion.model.chunking import Chunking, chunking_label
from wenet_fusion.trained_model import TrainedModel

Format = Literal["torchscript", "onnx", "wenet-onnx", "sherpa-onnx", "pt2"]
FORMATS: tuple[Format, ...] = get_args(Format)
PRECISIONS: dict[Format, tuple[str, ...]] = {
    "torchscript": ("float32", "float16-packed", "int8", "int8-dynamic"),
    "onnx": ("float32", "int8", "int8-dynamic"),
    "wenet-onnx": ("float32", "int8-dynamic"),
    "sherpa-onnx": ("float32", "int8-dynamic"),
    "pt2": ("float32",),
}
DATED: tuple[Format, ...] = ("torchscript", "onnx")  # those whose results say when words are spoken

MEANINGS = {
    "float32": "the checkpoint's text anywhere",
    "float16-packed": "the same text, faster, x86 only",
    "int8": "constant scales, calibrated on --data: may be batched across streams",
    "int8-dynamic": "scales of each call, no calibration",
}


def explain_precisions() -> str:
    """What each precision is, and which formats have it."""
    formats = {name: [form for form in FORMATS if name in PRECISIONS[form]] for name in MEANINGS}
    return "; ".join(f"{name} ({', '.join(formats[name])}): {text}" for name, text in MEANINGS.items())


class ExportRequest(NamedTuple):
    format: Format = "torchscript"
    chunking: Optional[Chunking] = None  # of formats that hold one: None is the model's default
    options: ExportOptions = ExportOptions()


def export_model(trained: TrainedModel, output: Path, request: ExportRequest, speech: Sequence[Speech]) -> list[str]:
    """Writes the verified file or files and returns what to tell the user about them, line by line.

    Raises:
        ValueError: if the format has no such precision or chunking, or the export's own verification refuses.
        ImportError: if the format needs a package that is missing.
    """
    options, known = request.options, PRECISIONS[request.format]
    if options.precision not in known:
        raise ValueError(
            f"--format {request.format} has no precision {options.precision}; choose from {', '.join(known)}"
        )
    check_limit(options.max_wer_increase)
    if any(utterance.spoken for utterance in speech) and request.format not in DATED:
        raise ValueError(
            f"--ctm is for {' and '.join(DATED)}: a {request.format} file has no place for the times of words"
        )
    _check_target(trained, output, request.format)
    one_chunking = request.format in ("wenet-onnx", "sherpa-onnx")
    if request.chunking is not None and not one_chunking:
        raise ValueError(
            f"--chunking is for wenet-onnx and sherpa-onnx; a {request.format} file serves every trained chunk size"
        )
    if one_chunking:
        chunking = request.chunking or trained.config.training.chunking.served()[-1]
        write = export_wenet_onnx if request.format == "wenet-onnx" else export_sherpa_onnx
        return _describe_foreign(write(trained, output, chunking, speech, options), chunking, options.precision)
    if request.format == "pt2":
        return _describe(output, export_program(trained, output, speech)) + ["experimental: torch.export.load reads it"]
    write_ours = export_onnx_archive if request.format == "onnx" else export_torchscript
    return _describe(output, write_ours(trained, output, speech, options))


def _check_target(trained: TrainedModel, output: Path, form: Format) -> None:
    """Refuses, before any work, to write over the checkpoint, another model's units, or what is no file."""
    if output.exists() and trained.path.exists() and output.samefile(trained.path):
        raise ValueError(f"{output} is the checkpoint itself: give another name for the export")
    if form == "wenet-onnx":
        if output.exists() and not output.is_dir():
            raise ValueError(f"{output} is a file: --format wenet-onnx writes a folder")
        companion = output / UNITS
    else:
        if output.is_dir():
            raise ValueError(f"{output} is a directory: name a file in it")
        companion = output.with_name(TOKENS)
        if form == "sherpa-onnx" and output.name == TOKENS:
            raise ValueError(f"{output} is the name of the units that are written beside the model: give another one")
    if form in ("wenet-onnx", "sherpa-onnx") and companion.exists():
        if companion.read_text(encoding="utf-8") != unit_table(trained.tokenizer):
            raise ValueError(f"{companion} holds the units of something else: export into another folder")


def _describe(output: Path, record: dict[str, Any]) -> list[str]:
    found, precision = record["verification"], record["precision"]
    norms = found["norm_operators"]
    step = f"{'no normalisation' if not norms else f'{norms} normalisation operators'} in the step"
    return [
        f"{_size(output)}, {precision}; {step}; {_comparison(found)} streamed at chunk sizes {found['chunk_sizes']}",
        *_error_rate(found, precision),
        *_word_times(record),
    ]


def _describe_foreign(written: ForeignExport, chunking: Chunking, precision: str) -> list[str]:
    found = written.accepted.summary()
    return [
        *map(_size, written.files),
        f"{precision}, chunking {chunking_label(chunking)}; {_comparison(found)}",
        *_error_rate(found, precision),
        *(f"note: {remark}" for remark in written.remarks),
        "",
        "run it:",
        f"  {written.command}",
    ]


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{path}: {size / 1e6:.1f} MB" if size >= 1e5 else f"{path}: {size / 1e3:.1f} kB"


def _comparison(found: dict[str, Any]) -> str:
    tokens, utterances = found["different_tokens"], found["utterances"]
    return (
        f"differs from the checkpoint by {found['largest_difference']:.1e} at most, in {tokens or 'no'} "
        f"token{'s' if tokens > 1 else ''} of {found['frames']} frames of {utterances} utterance{'s' if utterances > 1 else ''}"
    )


def _error_rate(found: dict[str, Any], precision: str) -> list[str]:
    if "errors" in found:
        errors = ErrorChange(**found["errors"])
        return [
            f"word error rate {100 * errors.before:.2f} % before, {100 * errors.after:.2f} % after, streamed in chunks of "
            f"{errors.chunk} ({errors.words} words; {errors.changed} of {errors.utterances} utterances have another text)"
        ]
    return (
        ["its error rate is unknown: give --data data.list to have it measured"] if precision.startswith("int8") else []
    )


def _word_times(record: dict[str, Any]) -> list[str]:
    if "word_times" not in record["verification"]:
        return []
    shifts, measured = record["word_times"], record["verification"]["word_times"]
    if measured is None:
        return ["word times: no word of the speech was recognised rightly, so words are dated by when they are emitted"]
    starts, ends = measured["starts_after"], measured["ends_after"]
    return [
        f"word times: starts move by {shifts['start_shift_seconds']:+.3f} s, ends by {shifts['end_shift_seconds']:+.3f} s "
        f"(medians over {measured['words']} words; between chunk sizes they differ by up to {measured['spread_seconds']:.3f} s), "
        f"which leaves mean errors of {starts['mean']:.3f} and {ends['mean']:.3f} s"
    ]
