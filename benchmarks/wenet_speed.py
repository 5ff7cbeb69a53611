#!/usr/bin/env python3
"""Time the runtime on files in WeNet's formats beside our own exports of the same weights, with one thread.

Ours hold the front-end; for WeNet's the runtime computes Kaldi's features and cuts the windows. Audio in, text out,
greedy search. Writes wenet_speed.md and wenet_speed.json.
"""

import argparse
import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from parts.benchmark_report import this_run, write_report
from parts.random_models import random_model, sharpen
from parts.runtime_calls import FED_SECONDS, steps_of, transcribe, whole_chunks
from parts.subjects import write_script
from parts.timing import Timing
from runtime_speed import BLANK_SHARE, QUICK, SAMPLE_RATE, SEGMENT_SECONDS, SHARPNESS, SIZES, measure
from wenet_fusion_runtime import AcousticModel, DecodingOptions, Recognizer, load_model
from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.files import write_text
from wenet_fusion_runtime.search.modes import GREEDY

from wenet_fusion.evaluation.report.markdown import markdown_table
from wenet_fusion.export.flow import export_model
from wenet_fusion.export.target import ExportOptions
from wenet_fusion.model.chunking import Chunking, chunking_label
from wenet_fusion.trained_model import TrainedModel

Pair = tuple[str, str]  # our format, and WeNet's that it is compared with
PAIRS: tuple[Pair, ...] = (
    ("TorchScript, ours", "TorchScript, WeNet's methods"),
    ("ONNX archive, ours", "ONNX folder, WeNet's"),
    ("ONNX archive, ours", "ONNX file, sherpa-onnx's"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="turns of everything (default: 15)")
    parser.add_argument("--timed", type=int, default=2, help="calls in a turn that count (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and audio (default: 0)")
    parser.add_argument("--quick", action="store_true", help="a toy model and 2 rounds: shows that everything runs")
    parser.add_argument("--output", type=Path, required=True, help="folder for the tables and the numbers")
    args = parser.parse_args(arguments)
    if min(args.rounds, args.timed) < 1:
        raise ValueError("--rounds and --timed must be 1 or more")
    torch.set_num_threads(1)
    sizes, rounds = (QUICK, 2) if args.quick else (SIZES, args.rounds)
    noise = np.random.default_rng(args.seed).normal(0, 0.1, SAMPLE_RATE * SEGMENT_SECONDS).astype(np.float32)
    trained = random_model(sizes.encoder, sizes.chunkings, sizes.vocabulary, args.seed, sizes.decoder)
    sharpen(trained, torch.from_numpy(noise), BLANK_SHARE, SHARPNESS)

    found: dict[Chunking, dict[str, Timing]] = {}
    steps: dict[Chunking, int] = {}
    for chunking in sizes.chunkings:
        with tempfile.TemporaryDirectory() as folder:
            models = build(trained, chunking, noise, Path(folder))
            ours = next(iter(models.values()))
            samples = whole_chunks(ours, chunking, noise[: int(sizes.seconds * SAMPLE_RATE)])
            steps[chunking] = steps_of(ours, chunking, samples)
            calls = {
                name: partial(transcribe, Recognizer(model, DecodingOptions(mode=GREEDY)), chunking, samples)
                for name, model in models.items()
            }
            found[chunking] = measure(calls, rounds, args.timed, chunking_label(chunking))
    run = this_run(args.seed, os.getloadavg()[0])

    text = "\n\n".join(
        [
            "\n".join(run.lines()),
            f"{sizes.seconds:g} s of noise, fed {FED_SECONDS:g} s at a time; {sizes.vocabulary} tokens; float32. "
            f"Medians of {rounds * args.timed} calls ({rounds} rounds of {args.timed}); the calls take turns.",
            *(
                f"At {chunking_label(chunking)}:\n\n{table(times, steps[chunking])}"
                for chunking, times in found.items()
            ),
        ]
    )
    print(text)
    times = {chunking_label(item): {name: time._asdict() for name, time in found[item].items()} for item in found}
    write_report(args.output, "wenet_speed", text, {"run": run, "times": times})
    return 0


def build(trained: TrainedModel, chunking: Chunking, noise: np.ndarray, folder: Path) -> dict[str, AcousticModel]:
    """Write one model in our formats and in WeNet's, and load the files."""
    (ours, script), (archive, graphs), (_, sherpa) = PAIRS
    write_script(trained, "float32", noise, folder / "ours.zip")
    units = folder / "units.txt"
    tokens = trained.tokenizer.vocabulary.tokens
    write_text(units, "".join(f"{token} {number}\n" for number, token in enumerate(tokens)))
    # Without its meta.json, our file is one of WeNet's: it answers the methods that WeNet's programs call.
    torch.jit.load(str(folder / "ours.zip")).save(str(folder / "final.zip"))
    options = {
        "archive.zip": ExportOptions("onnx", "float32"),
        "wenet": ExportOptions("wenet-onnx", "float32", chunking),
        "sherpa/model.onnx": ExportOptions("sherpa-onnx", "float32", chunking),
    }
    for name, chosen in options.items():
        (folder / name).parent.mkdir(exist_ok=True)
        export_model(trained, folder / name, chosen)
    return {
        ours: load_model(folder / "ours.zip"),
        script: load_model(folder / "final.zip", units=units),
        archive: load_model(folder / "archive.zip"),
        graphs: load_model(folder / "wenet"),
        sherpa: load_model(folder / "sherpa" / "model.onnx"),
    }


def table(times: Mapping[str, Timing], steps: int) -> str:
    """Tabulate milliseconds per chunk, and those of WeNet's formats relative to ours."""
    against = {theirs: ours for ours, theirs in PAIRS}
    rows = []
    for name, time in times.items():
        ratio = f"{time.median / times[against[name]].median:.2f} x" if name in against else ""
        rows.append([name, f"{time.median / steps:.2f}", ratio])
    return markdown_table(["file", "ms per chunk", "to ours"], rows)


if __name__ == "__main__":
    run_main(main)
