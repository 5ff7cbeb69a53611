"""The verbs `check` and `inspect`."""

import argparse
from pathlib import Path

from wenet_fusion_runtime.audio.reader import load_audio
from wenet_fusion_runtime.model.metadata import TORCHSCRIPT
from wenet_fusion_runtime.model.model_file import load_model

from wenet_fusion.cli.arguments import Verb, print_skipped
from wenet_fusion.evaluation.inspection import describe, draw_influence, influence
from wenet_fusion.evaluation.streaming_laws import BOUND, check_model
from wenet_fusion.export.targets.torchscript import reloaded, script, step_graph
from wenet_fusion.model.chunking import FULL_CONTEXT, parse_chunking
from wenet_fusion.model.operators import operators
from wenet_fusion.recipe import check_data, read_recipe
from wenet_fusion.trained_model import acoustic_model, load_trained
from wenet_fusion.training.checkpoint import is_exported


def add(verb: Verb) -> None:
    """Add the verbs to the parser."""
    p = verb("check", check, "prove the streaming laws on a checkpoint, or say what training would skip of a data.list")
    p.add_argument("what", choices=("model", "data"))
    p.add_argument("path", type=Path, help="checkpoint or data.list")
    p.add_argument("--audio", type=Path, help="model: audio file to use instead of noise")
    p.add_argument("--config", type=Path, help="data: training configuration")
    p.add_argument("overrides", nargs="*", metavar="key=value", help="data: configuration values")

    p = verb("inspect", inspect, "show latency, operators and which input frames reach which outputs")
    p.add_argument("path", type=Path, help="checkpoint or exported file")
    p.add_argument("--frames", type=int, default=160, help="encoder frames to measure on")
    p.add_argument("--output", type=Path, help="picture to draw (PNG, SVG or PDF)")


def check(args: argparse.Namespace) -> int:
    if args.what == "data":
        report = check_data(read_recipe(args.config, args.overrides), args.path)
        print(f"{args.path}: {report.utterances} utterances, {report.hours:.2f} h usable; {len(report.skipped)} not")
        print_skipped(report.skipped)
        return 1 if report.skipped else 0
    trained = load_trained(args.path)
    rate = trained.config.model.frontend.sample_rate
    samples = load_audio(args.audio, rate) if args.audio else None
    checks = check_model(trained, samples)
    for item in checks:
        print(f"{'holds' if item.holds else 'FAILS':6} {item.chunking:>6}  {item.difference:8.1e}  {item.law}")
    failed = sum(not item.holds for item in checks)
    print(f"{len(checks) - failed} of {len(checks)} hold (float64, largest relative difference at most {BOUND:.0e})")
    return 1 if failed else 0


def inspect(args: argparse.Namespace) -> int:
    if is_exported(args.path):
        model = load_model(args.path)
        scripted = model.meta.kind == TORCHSCRIPT
        counts = dict(operators(step_graph(model)) if scripted else model.meta.verification["operators"])
        chunkings = [parse_chunking(f"{size}/{model.meta.left(size)}") for size in model.meta.chunk_sizes]
    else:
        trained = load_trained(args.path)
        model, counts = acoustic_model(trained), dict(operators(reloaded(script(trained)).step.inlined_graph))
        chunkings = trained.config.training.chunking.served()
    chunkings = (
        [] if model.meta.precision.startswith("int8") and args.output is None else [FULL_CONTEXT, *reversed(chunkings)]
    )
    print(describe(model, counts, chunkings, args.frames))
    if args.output is not None:
        drawn = [influence(model, chunking, args.frames) for chunking in chunkings]
        draw_influence(drawn, model.meta.frame_seconds, args.output)
        print(f"\n{args.output}: which input frames reach which outputs")
    return 0
