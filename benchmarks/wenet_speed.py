#!/usr/bin/env python3
"""Time our runtime with files in WeNet's formats and in our own formats, all exported from the same random weights.

Our files contain the front-end; for WeNet's files the runtime computes Kaldi's features and cuts the windows. Times are
from audio to text, with greedy search and one thread. Writes wenet_speed.md and wenet_speed.json.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from parts.benchmark_report import this_run, write_report
from parts.exported_files import write_script
from parts.runtime_calls import FED_SECONDS, steps_of, transcribe, whole_chunks
from parts.speed_setup import SAMPLE_RATE, measure, noise_of, parse_settings, peaked_model
from parts.timing import Timing
from wenet_fusion_runtime import AcousticModel, DecodingOptions, Recognizer, load_model
from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.files import write_text
from wenet_fusion_runtime.search.modes import GREEDY

from wenet_fusion.evaluation.report.markdown import markdown_table
from wenet_fusion.export.flow import export_model
from wenet_fusion.export.target import ExportOptions
from wenet_fusion.model.chunking import Chunking, chunking_label
from wenet_fusion.trained_model import TrainedModel

Pair = tuple[str, str]  # a format of ours, and the format that is compared with it
PAIRS: tuple[Pair, ...] = (
    ("TorchScript, ours", "TorchScript, WeNet's methods"),
    ("ONNX archive, ours", "ONNX folder, WeNet's"),
    ("ONNX archive, ours", "ONNX file, sherpa-onnx's"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    settings = parse_settings(__doc__, arguments, "weights and audio")
    sizes, noise = settings.sizes, noise_of(settings.seed)
    trained = peaked_model(sizes, noise, settings.seed, sizes.decoder)

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
            found[chunking] = measure(calls, settings, chunking_label(chunking))
    run = this_run(settings.seed, os.getloadavg()[0])

    text = "\n\n".join(
        [
            "\n".join(run.lines()),
            f"{sizes.seconds:g} s of noise, fed {FED_SECONDS:g} s at a time; {sizes.vocabulary} tokens; float32. "
            f"{settings.effort}; the calls take turns.",
            *(
                f"At {chunking_label(chunking)}:\n\n{table(times, steps[chunking])}"
                for chunking, times in found.items()
            ),
        ]
    )
    print(text)
    times = {chunking_label(item): {name: time._asdict() for name, time in found[item].items()} for item in found}
    write_report(settings.output, "wenet_speed", text, {"run": run, "times": times})
    return 0


def build(trained: TrainedModel, chunking: Chunking, noise: np.ndarray, folder: Path) -> dict[str, AcousticModel]:
    """Write a model in our formats and in WeNet's, and load the files."""
    (ours, script), (archive, graphs), (_, sherpa) = PAIRS
    write_script(trained, "float32", noise, folder / "ours.zip")
    units = folder / "units.txt"
    tokens = trained.tokenizer.vocabulary.tokens
    write_text(units, "".join(f"{token} {number}\n" for number, token in enumerate(tokens)))
    # Without its meta.json, the runtime takes our file for WeNet's: it has the methods that WeNet's programs call.
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
    """Return a table of milliseconds per chunk, and of the ratios of the other formats to ours."""
    against = {theirs: ours for ours, theirs in PAIRS}
    rows = []
    for name, time in times.items():
        ratio = f"{time.median / times[against[name]].median:.2f} x" if name in against else ""
        rows.append([name, f"{time.median / steps:.2f}", ratio])
    return markdown_table(["file", "ms per chunk", "to ours"], rows)


if __name__ == "__main__":
    run_main(main)
