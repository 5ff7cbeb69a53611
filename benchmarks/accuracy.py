#!/usr/bin/env python3
"""Measure the word error rates of checkpoints, streamed in every precision.

`wenet-fusion export` exports each checkpoint to TorchScript files and ONNX archives, and recorded speech is streamed
through the files. int8 is calibrated on other speech. A Conformer has no ONNX archive in int8 with constant scales,
because export does not offer one. Writes accuracy.md and accuracy.json.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from parts.benchmark_report import this_run, write_report
from tqdm import tqdm
from wenet_fusion_runtime import Recognizer
from wenet_fusion_runtime.console import run_main

from wenet_fusion.cli.__main__ import main as wenet_fusion
from wenet_fusion.evaluation.report.markdown import markdown_table
from wenet_fusion.export.flow import TARGETS
from wenet_fusion.export.speech import Speech, read_speech
from wenet_fusion.export.targets.onnx_archive import takes_int8
from wenet_fusion.scoring.error_rate import ErrorCounts, score
from wenet_fusion.trained_model import load_trained

FORMATS = ("torchscript", "onnx")
ENGINES = {"torchscript": "TorchScript", "onnx": "onnxruntime"}
MAX_INCREASE = "100"  # --max_wer_increase: in effect no limit, because this program reports the error rates


class NamedCheckpoint(NamedTuple):
    name: str  # name in the table
    checkpoint: Path


class Outcome(NamedTuple):
    """The result of one exported file at one chunk size."""

    model: str
    variant: str  # engine and precision
    chunk: str
    wer: float
    words: int
    changed: int  # number of utterances whose text differs from the first variant's
    megabytes: float


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "checkpoints", nargs="+", type=named_checkpoint, metavar="NAME=CHECKPOINT", help="models to compare"
    )
    parser.add_argument("--data", type=Path, required=True, help="data.list to stream")
    parser.add_argument("--calibration", type=Path, required=True, help="data.list for the scales of int8")
    parser.add_argument("--num_utterances", type=int, default=1_000_000, help="utterances to use (default: all)")
    parser.add_argument("--output", type=Path, required=True, help="folder for the table and the numbers")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        for item in args.checkpoints:
            outcomes += measure(item, args, Path(folder))
    run = this_run(0, os.getloadavg()[0])
    words = outcomes[0].words
    text = "\n\n".join(
        ["\n".join(run.lines()), f"Word error rate in percent, of {words} words.", outcome_table(outcomes)]
    )
    print(text)
    write_report(args.output, "accuracy", text, {"run": run, "outcomes": [outcome._asdict() for outcome in outcomes]})
    return 0


def named_checkpoint(text: str) -> NamedCheckpoint:
    name, equals, path = text.partition("=")
    if not equals or not name or not Path(path).is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=CHECKPOINT with an existing file")
    return NamedCheckpoint(name, Path(path))


def measure(item: NamedCheckpoint, args: argparse.Namespace, folder: Path) -> list[Outcome]:
    """Measure a checkpoint on every engine in every precision at every chunk size. The texts of the first variant,
    TorchScript in float32, are the reference for the number of changed texts.
    """
    outcomes, expected = [], {}
    missing = [] if takes_int8(load_trained(item.checkpoint)) else [("onnx", "int8")]
    for format_ in FORMATS:
        for precision in TARGETS[format_].precisions:
            if (format_, precision) in missing:
                continue
            path = folder / "model.zip"
            options = ["--format", format_, "--precision", precision, "--max_wer_increase", MAX_INCREASE]
            if precision.startswith("int8"):
                options += ["--data", str(args.calibration)]
            wenet_fusion(["export", str(item.checkpoint), str(path), *options])
            recognizer = Recognizer(path)
            speech = read_speech(args.data, recognizer.model.meta.sample_rate, args.num_utterances)
            for chunk in recognizer.model.meta.chunk_sizes:
                texts = stream(recognizer, chunk, speech, f"{item.name} {format_} {precision} {chunk}")
                expected.setdefault(chunk, texts)
                total = errors(speech, texts)
                changed = sum(texts[key] != text for key, text in expected[chunk].items())
                label = f"{chunk}/{recognizer.model.meta.left(chunk)}"
                variant = f"{ENGINES[format_]} {precision}"
                size = path.stat().st_size / 1e6
                outcomes.append(Outcome(item.name, variant, label, total.rate, total.reference, changed, size))
    return outcomes


def stream(recognizer: Recognizer, chunk: int, speech: Sequence[Speech], title: str) -> dict[str, str]:
    texts = {}
    for utterance in tqdm(speech, desc=title, unit="utt", leave=False, disable=None):
        stream = recognizer.create_stream(chunk)
        stream.accept_waveform(utterance.samples)
        stream.finish()
        texts[utterance.key] = stream.text
    return texts


def errors(speech: Sequence[Speech], texts: dict[str, str]) -> ErrorCounts:
    return score({utterance.key: utterance.text for utterance in speech}, texts).total


def outcome_table(outcomes: Sequence[Outcome]) -> str:
    """Return a table of error rates and numbers of changed texts, by model, engine, precision and chunk size."""
    chunks = list(dict.fromkeys(outcome.chunk for outcome in outcomes))[::-1]
    head = ["model, engine and precision"]
    for chunk in chunks:
        head += [chunk, "texts changed"]
    rows: dict[tuple[str, str], dict[str, Outcome]] = {}
    for outcome in outcomes:
        rows.setdefault((outcome.model, outcome.variant), {})[outcome.chunk] = outcome
    cells = []
    for (model, variant), found in rows.items():
        row = [f"{model}, {variant}"]
        for chunk in chunks:
            row += [f"{100 * found[chunk].wer:.2f}", str(found[chunk].changed)]
        cells.append([*row, f"{next(iter(found.values())).megabytes:.1f}"])
    return markdown_table([*head, "file, MB"], cells)


if __name__ == "__main__":
    run_main(main)
