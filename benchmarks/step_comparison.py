#!/usr/bin/env python3
"""Compare the time of a step: our int8 model, a LayerNorm Conformer in onnxruntime, and WeNet's own exports.

A step maps samples and state to the best tokens and the next state. All models run by turns in one process with one
thread; our model and the Conformer have random weights. Writes step_comparison_FAMILY.md and .json, named after the
family of processors whose native code ran.

--wenet names the folder of WeNet's package: its scripts then export a Conformer of the same sizes, with random weights,
to TorchScript (export_jit.py) and to ONNX (export_onnx_cpu.py), each in float32 and in int8. --wenet_dir names the
folder of a WeNet experiment instead, with train.yaml, units.txt and at least one of these files of WeNet's scripts:
final.zip, final_quant.zip, and the folders onnx_16_4 and onnx_4_16 for these chunks and left contexts.
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import yaml
from native_step import CALIBRATION_SECONDS, QUICK, QUICK_VOCABULARY, VOCABULARY, parse_step_arguments, steps
from parts.benchmark_report import Goal, goals_table, this_run, write_report
from parts.compiled_step import compiled_steps
from parts.encoder_variants import static_conformer
from parts.exported_files import write_int8_archive
from parts.random_models import Shape, conformer, random_model
from parts.timing import Timing, by_turns
from parts.training.wenet_package import INSTALL, package_folder
from parts.wenet_models import RECIPE, write_exports
from tqdm import tqdm
from wenet_fusion_runtime import AcousticModel
from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.model.backends import NATIVE, ONNXRUNTIME
from wenet_fusion_runtime.model.metadata import ONNX
from wenet_fusion_runtime.model.model_file import load_model
from wenet_fusion_runtime.model.native_backend import native_family

from wenet_fusion.evaluation.report.markdown import markdown_table
from wenet_fusion.export.flow import export_model
from wenet_fusion.export.target import ExportOptions
from wenet_fusion.export.targets.onnx_archive import OneChunkEncoder, build_graphs, pack
from wenet_fusion.export.tracing import describe_state
from wenet_fusion.model.chunking import Chunking
from wenet_fusion.model.encoder_config import EncoderConfig
from wenet_fusion.trained_model import FileForm, TrainedModel, meta_record

CHUNKINGS = (Chunking(16, 4), Chunking(4, 16))
OURS, CONFORMER, WENET = "FusionFormer", "LayerNorm Conformer", "WeNet's export"
# Goals by family of processors and frames per chunk: time of the Conformer's fastest variant divided by ours.
LEAST_GAIN = {"amx": {16: 3.0, 4: 2.2}, "avx512_vnni": {16: 2.6, 4: 2.2}}
WENET_SCRIPTS = (
    "WeNet's own export_jit.py and export_onnx_cpu.py, as Rev.com ships them in rev-reverb 0.1.0, wrote its files from "
    "one checkpoint with random weights."
)
WENET_FILES = {
    "TorchScript float32": "final.zip",
    "TorchScript int8": "final_quant.zip",
    "onnxruntime float32": "onnx_{0}_{1}/encoder.onnx",
    "onnxruntime int8": "onnx_{0}_{1}/encoder.quant.onnx",
}


class TimedModel(NamedTuple):
    """A model to be timed."""

    kind: str  # OURS, CONFORMER or WENET
    variant: str  # engine and precision
    model: AcousticModel

    @property
    def name(self) -> str:
        return f"{self.kind}, {self.variant}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_wenet_arguments(parser)
    parser.add_argument(
        "--compiled",
        action="store_true",
        help="also time our step for one stream as compiled by AOTInductor, in float32 and, if torchao is installed, "
        "in int8; compiling takes minutes and needs a C++ compiler",
    )
    args = parse_step_arguments(parser, arguments, rounds=8, timed=2)
    if args.wenet is not None:
        package_folder(args.wenet)
    torch.set_num_threads(1)
    family = native_family()
    config, vocabulary = (QUICK, QUICK_VOCABULARY) if args.quick else (EncoderConfig(), VOCABULARY)
    rounds, rng = 2 if args.quick else args.rounds, np.random.default_rng(args.seed)
    times: dict[Shape, dict[str, Timing]] = {}
    with tempfile.TemporaryDirectory() as folder:
        models = build(config, vocabulary, args.seed, Path(folder))
        wenet_dir = args.wenet_dir
        if args.wenet is not None:
            wenet_dir = write_exports(Path(folder) / "wenet", config, vocabulary, CHUNKINGS, args.seed)
        sizes = [f"{OURS} and {CONFORMER}: {describe(config, vocabulary)}."]
        if wenet_dir is not None:
            sizes.append(f"{WENET}: {wenet_size(wenet_dir)}; several streams are stepped one after the other.")
        for chunking in CHUNKINGS:
            timed = [*models, *wenet_models(wenet_dir, chunking)]
            for batch in sorted(set(args.batches)):
                shape = Shape(chunking, batch)
                calls = {each.name: steps_of(each, shape, rng) for each in timed}
                if args.compiled and batch == 1:
                    ours = random_model(config, CHUNKINGS, vocabulary, args.seed)
                    compiled = compiled_steps(ours, chunking, Path(folder), rng)
                    calls |= {f"{OURS}, {variant}": call for variant, call in compiled}
                with tqdm(total=len(calls) * rounds, desc=shape.label, unit="turn", leave=False, disable=None) as bar:
                    times[shape] = by_turns(calls, rounds, args.timed, bar.update, shared=args.shared)
    run = this_run(args.seed, os.getloadavg()[0])
    if args.wenet is not None:
        sizes.append(WENET_SCRIPTS)
    described = f'{" ".join(sizes)} "To ours" is the time divided by the time of the fastest {OURS}.'
    parts = [f"# A step, compared ({family})", "\n".join(run.lines()), described, table(times)]
    if wanted := goals(times, family):
        parts.append(goals_table(wanted))
    text = "\n\n".join(parts)
    print(text)
    found = {shape.label: {name: timing._asdict() for name, timing in each.items()} for shape, each in times.items()}
    write_report(args.output, f"step_comparison_{family}", text, {"run": run, "sizes": sizes, "steps": found})
    return 0


def add_wenet_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --wenet and --wenet_dir, of which at most one may be given."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--wenet",
        type=Path,
        metavar="FOLDER",
        help=f"folder of WeNet's package, to export and time its model too ({INSTALL.format(' --target FOLDER')}); "
        "needs torchaudio",
    )
    group.add_argument(
        "--wenet_dir",
        type=Path,
        metavar="EXPERIMENT",
        help="folder of a WeNet experiment, with the files of WeNet's export scripts",
    )


def build(config: EncoderConfig, vocabulary: int, seed: int, folder: Path) -> list[TimedModel]:
    """Return our int8 archive on both backends, and the Conformer in onnxruntime in several precisions."""
    noise = np.random.default_rng(seed).normal(0, 0.1, CALIBRATION_SECONDS * 16000).astype(np.float32)
    ours = random_model(config, CHUNKINGS, vocabulary, seed)
    write_int8_archive(ours, noise, folder / "ours.zip")
    found = [
        TimedModel(OURS, f"{name} int8", load_model(folder / "ours.zip", backend=name))
        for name in (NATIVE, ONNXRUNTIME)
    ]
    theirs = random_model(conformer(config), CHUNKINGS, vocabulary, seed)
    for precision in ("float32", "int8-dynamic"):
        path = folder / f"{precision}.zip"
        export_model(theirs, path, ExportOptions("onnx", precision))
        found.append(TimedModel(CONFORMER, f"{ONNXRUNTIME} {precision}", load_model(path)))
    for convolutions, variant in ((False, "int8"), (True, "int8 with convolutions")):
        path = folder / f"{variant}.zip"
        write_static_conformer(theirs, seed, convolutions, path)
        found.append(TimedModel(CONFORMER, f"{ONNXRUNTIME} {variant}", load_model(path, backend=ONNXRUNTIME)))
    return found


def write_static_conformer(trained: TrainedModel, seed: int, convolutions: bool, path: Path) -> None:
    """Write an archive of the Conformer in int8 with constant scales, which our export does not offer."""
    model = static_conformer(trained, seed, convolutions)
    model.add_module("encoder", OneChunkEncoder(model.encoder))
    record = {**meta_record(trained, {}, FileForm(ONNX, "int8", "onnxruntime")), "state": describe_state(model)}
    pack(build_graphs(model, "int8"), record, path)


def wenet_models(folder: Path | None, chunking: Chunking) -> list[TimedModel]:
    """Load the files of WeNet's scripts; of the ONNX folders, only the one for this chunking."""
    if folder is None:
        return []
    files = {variant: folder / name.format(*chunking) for variant, name in WENET_FILES.items()}
    found = [TimedModel(WENET, variant, load_model(path)) for variant, path in files.items() if path.is_file()]
    if not found:
        raise ValueError(f"{folder}: has none of {', '.join(path.name for path in files.values())}")
    return found


def steps_of(timed: TimedModel, shape: Shape, rng: np.random.Generator) -> Callable[[], object]:
    """Return a function that runs the next step of all streams; WeNet's files take one stream at a time."""
    if timed.kind != WENET:
        return steps(timed.model, shape, rng)
    calls = [steps(timed.model, Shape(shape.chunking, 1), rng) for _ in range(shape.batch)]
    return lambda: [call() for call in calls]


def fastest(times: Mapping[str, Timing], kind: str) -> str:
    """Return the name of the fastest variant of a kind of model: OURS, CONFORMER or WENET."""
    names = [name for name in times if name.startswith(kind)]
    return min(names, key=lambda name: times[name].median)


def table(times: Mapping[Shape, Mapping[str, Timing]]) -> str:
    """Return a table of milliseconds per step, and of their ratios to our fastest variant."""
    head = ["ms per step"]
    for shape in times:
        head += [shape.label, "to ours"]
    rows = []
    for name in dict.fromkeys(name for found in times.values() for name in found):
        row = [name]
        for found in times.values():
            ours = found[fastest(found, OURS)].median
            row += [f"{found[name].median:.2f}", f"{found[name].median / ours:.2f}"] if name in found else ["", ""]
        rows.append(row)
    return markdown_table(head, rows)


def goals(times: Mapping[Shape, Mapping[str, Timing]], family: str) -> list[Goal]:
    """Return the goals for one stream: our fastest variant against the Conformer's."""
    found = []
    for shape, each in times.items():
        least = LEAST_GAIN.get(family, {}).get(shape.chunking.size)
        if shape.batch == 1 and least is not None:
            ours, theirs = fastest(each, OURS), fastest(each, CONFORMER)
            gain = each[theirs].median / each[ours].median
            found.append(Goal(f"{shape.label}: time of {theirs} / of {ours}", least, gain))
    return found


def describe(config: EncoderConfig, vocabulary: int) -> str:
    return f"{config.layers} layers, {config.dim} wide, feed-forward {config.feed_forward}, {vocabulary} tokens"


def wenet_size(folder: Path) -> str:
    """Return the sizes of WeNet's model, from the folder's train.yaml."""
    recipe = yaml.safe_load((folder / RECIPE).read_text(encoding="utf-8"))
    encoder = recipe["encoder_conf"]
    return (
        f"{recipe['encoder']} of {encoder['num_blocks']} layers, {encoder['output_size']} wide, feed-forward "
        f"{encoder['linear_units']}, {recipe['output_dim']} tokens"
    )


if __name__ == "__main__":
    run_main(main)
