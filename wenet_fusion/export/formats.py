"""Every export under one roof: which format takes which precision, and what a user is told about the file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Optional, get_args

from wenet_fusion.chunking import Chunking, chunking_label
from wenet_fusion.export.onnx_archive import export_onnx_archive
from wenet_fusion.export.program import export_program
from wenet_fusion.export.sherpa_onnx import TOKENS, export_sherpa_onnx
from wenet_fusion.export.speech import ErrorChange, Speech
from wenet_fusion.export.torchscript import ExportOptions, export_torchscript
from wenet_fusion.export.wenet_onnx import UNITS, ForeignExport, export_wenet_onnx, unit_table
from wenet_fusion.recipe import TrainedModel

Format = Literal["torchscript", "onnx", "wenet-onnx", "sherpa-onnx", "pt2"]
FORMATS: tuple[Format, ...] = get_args(Format)
PRECISIONS: dict[Format, tuple[str, ...]] = {
    "torchscript": ("float32", "float16-packed", "int8", "int8-dynamic"),
    "onnx": ("float32", "int8-dynamic"),
    "wenet-onnx": ("float32", "int8-dynamic"),
    "sherpa-onnx": ("float32", "int8-dynamic"),
    "pt2": ("float32",),
}


class ExportRequest(NamedTuple):
    format: Format = "torchscript"
    precision: str = "float32"
    chunking: Optional[Chunking] = None  # of formats that hold one: None is the model's default
    max_wer_increase: float = 0.005  # what int8 may cost, as a fraction of the words of the speech it is judged by


def export_model(trained: TrainedModel, output: Path, request: ExportRequest, speech: Sequence[Speech]) -> list[str]:
    """Writes the verified file or files and returns what to tell the user about them, line by line.

    Raises:
        ValueError: if the format has no such precision or chunking, or the export's own verification refuses.
        ImportError: if the format needs a package that is missing.
    """
    if request.precision not in PRECISIONS[request.format]:
        raise ValueError(
            f"--format {request.format} has no precision {request.precision}; choose from {', '.join(PRECISIONS[request.format])}"
        )
    if speech and request.format not in ("torchscript", "onnx"):
        raise ValueError(f"--data is for torchscript and onnx; a {request.format} file is verified on generated audio alone")
    _check_target(trained, output, request.format)
    precision: Literal["float32", "int8"] = "int8" if request.precision == "int8-dynamic" else "float32"  # of ONNX graphs
    one_chunking = request.format in ("wenet-onnx", "sherpa-onnx")
    if request.chunking is not None and not one_chunking:
        raise ValueError(f"--chunking is for wenet-onnx and sherpa-onnx; a {request.format} file serves every trained chunk size")
    if one_chunking:
        chunking = request.chunking or trained.config.training.chunking.served()[-1]
        write = export_wenet_onnx if request.format == "wenet-onnx" else export_sherpa_onnx
        return _describe_foreign(write(trained, output, chunking, precision), chunking, precision == "int8")
    if request.format == "pt2":
        return _describe(output, export_program(trained, output)) + ["experimental: torch.export.load reads it"]
    options = ExportOptions(request.precision, request.max_wer_increase)
    if request.format == "onnx":
        return _describe(output, export_onnx_archive(trained, output, precision, speech, request.max_wer_increase))
    return _describe(output, export_torchscript(trained, output, speech, options))


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
    found = record["verification"]
    size = f"{output}: {output.stat().st_size / 1e6:.1f} MB, {record['precision']}"
    norms = found.get("norm_operators", 0)
    lines = [
        f"{size}; {'no normalisation' if not norms else f'{norms} normalisation operators'} in the step; differs from the "
        f"checkpoint by {found['largest_difference']:.1e} at most, in {found['different_tokens'] or 'no'} token of "
        f"{found['frames']} frames of {found['utterances']} utterances streamed at chunk sizes {found['chunk_sizes']}"
    ]
    if "errors" in found:
        errors = ErrorChange(**found["errors"])
        lines.append(
            f"word error rate {100 * errors.before:.2f} % before, {100 * errors.after:.2f} % after, streamed in chunks of "
            f"{errors.chunk} ({errors.words} words; {errors.changed} of {errors.utterances} utterances have another text)"
        )
    elif record["precision"].startswith("int8"):
        lines.append("its error rate is unknown: give --data data.list to have it measured")
    if "word_times" in found:
        lines.append(_describe_word_times(record))
    return lines


def _describe_word_times(record: dict[str, Any]) -> str:
    shifts, measured = record["word_times"], record["verification"]["word_times"]
    if measured is None:
        return "word times: no word of the speech was recognised rightly, so words are dated by when they are emitted"
    starts, ends = measured["starts_after"], measured["ends_after"]
    return (
        f"word times: starts move by {shifts['start_shift_seconds']:+.3f} s, ends by {shifts['end_shift_seconds']:+.3f} s "
        f"(medians over {measured['words']} words; between chunk sizes they differ by up to {measured['spread_seconds']:.3f} s), "
        f"which leaves mean errors of {starts['mean']:.3f} and {ends['mean']:.3f} s"
    )


def _describe_foreign(written: ForeignExport, chunking: Chunking, int8: bool) -> list[str]:
    found = written.verification
    lines = [f"{path}: {path.stat().st_size / 1e6:.1f} MB" for path in written.files]
    if int8:
        lines.append("its error rate is unknown; the same kernels in --format onnx have it measured on --data")
    lines.append(
        f"chunking {chunking_label(chunking)}; differs from the checkpoint by {found.largest_difference:.1e} at most, in "
        f"{found.different_tokens or 'no'} token of {found.frames} frames"
    )
    return [*lines, *(f"note: {remark}" for remark in written.remarks), "", "run it:", f"  {written.command}"]
