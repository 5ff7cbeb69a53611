#!/usr/bin/env python3
"""Export a checkpoint to several formats, measure the word error rate of each streamed file, and print a table.

If an export fails, e.g. because int8 increases the error rate too much, its row in the table shows the reason.

Example: python tools/measure_exports.py exp/avg_3.pt --data data/dev/data.list \\
    --targets torchscript onnx onnx:int8 sherpa-onnx --output exp/exports
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.files import write_text

from wenet_fusion.evaluation.report.markdown import markdown_table
from wenet_fusion.export.flow import TARGETS, export_model
from wenet_fusion.export.speech import Speech, read_speech
from wenet_fusion.export.target import ExportOptions
from wenet_fusion.trained_model import TrainedModel, load_trained

FILES = {
    "torchscript": "torchscript{}.zip",
    "onnx": "onnx{}.zip",
    "wenet-onnx": "wenet-onnx{}",
    "sherpa-onnx": "sherpa-onnx{}/model.onnx",
    "pt2": "program{}.pt2",
}


@dataclass(frozen=True)
class Outcome:
    """An export and its error rates, which are fractions; None: not measured."""

    target: str
    precision: str
    search: str  # search mode with which the texts were decoded
    file: str
    megabytes: float
    checkpoint: float | None  # error rate of the checkpoint
    exported: float | None  # error rate of the file
    words: int
    chunk: int | None  # chunk size with the largest increase of the error rate
    changed: int  # number of utterances whose text differs from the checkpoint's
    utterances: int  # number of measured utterances; precision int8 is measured on half of the data
    refused: str  # why the export failed; empty: it succeeded


def parse_target(name: str) -> ExportOptions:
    """Parse TARGET or TARGET:PRECISION. Raises ArgumentTypeError."""
    target, _, precision = name.partition(":")
    precision = precision or "float32"
    if target not in TARGETS:
        raise argparse.ArgumentTypeError(f"{name}: no target {target!r}; choose from {', '.join(TARGETS)}")
    if precision not in TARGETS[target].precisions:
        known = ", ".join(TARGETS[target].precisions)
        raise argparse.ArgumentTypeError(f"{name}: {target} has no precision {precision!r}; choose from {known}")
    return ExportOptions(target, precision, measure_errors=True)


def destination(folder: Path, options: ExportOptions) -> Path:
    """Return the path of an exported file."""
    suffix = "" if options.precision == "float32" else f"-{options.precision}"
    return folder / FILES.get(options.target, options.target + "{}").format(suffix)


def measure(trained: TrainedModel, options: ExportOptions, speech: Sequence[Speech], folder: Path) -> Outcome:
    """Export one format and measure it."""
    path, search = destination(folder, options), TARGETS[options.target].decoding.mode or "default"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        exported = export_model(trained, path, options, speech)
    except (ImportError, ValueError) as error:
        return Outcome(options.target, options.precision, search, str(path), 0.0, None, None, 0, None, 0, 0, str(error))
    errors = exported.findings.errors
    assert errors is not None  # there is speech
    size = sum(file.stat().st_size for file in exported.files) / 1e6
    return Outcome(
        options.target, options.precision, search, str(path), round(size, 1), errors.before, errors.after, errors.words,
        errors.chunk, errors.changed, errors.utterances, "",
    )  # fmt: skip


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the outcomes as Markdown."""
    header = [
        "format",
        "precision",
        "search",
        "MB",
        "checkpoint, %",
        "file, %",
        "words",
        "chunk",
        "changed texts",
        "refused",
    ]
    rows = []
    for item in outcomes:
        rates = ["-" if rate is None else f"{100 * rate:.2f}" for rate in (item.checkpoint, item.exported)]
        rows.append(
            [item.target, item.precision, item.search, f"{item.megabytes:g}", *rates, str(item.words),
             str(item.chunk or "-"), f"{item.changed} of {item.utterances}", item.refused]
        )  # fmt: skip
    return markdown_table(header, rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="checkpoint of the model")
    parser.add_argument("--data", type=Path, required=True, help="data.list to verify, calibrate and measure with")
    parser.add_argument(
        "--num_utterances", type=int, default=100, help="number of utterances of --data to use (default: 100)"
    )
    parser.add_argument(
        "--targets",
        type=parse_target,
        nargs="+",
        default=[parse_target(name) for name in TARGETS],
        metavar="TARGET[:PRECISION]",
        help=f"formats to export: {', '.join(TARGETS)} (default: all, in float32)",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for the files, exports.json and exports.md")
    args = parser.parse_args(arguments)
    trained = load_trained(args.checkpoint)
    speech = read_speech(args.data, trained.config.model.frontend.sample_rate, args.num_utterances)
    outcomes = [measure(trained, options, speech, args.output) for options in args.targets]
    args.output.mkdir(parents=True, exist_ok=True)
    write_text(args.output / "exports.json", json.dumps([asdict(item) for item in outcomes], indent=1) + "\n")
    text = f"{table(outcomes)}\n"
    write_text(args.output / "exports.md", text)
    print(text, end="")
    return 0


if __name__ == "__main__":
    run_main(main)
