"""The verb `inspect`."""

import argparse
from pathlib import Path

from wenet_fusion_runtime.model.metadata import KINDS, TORCHSCRIPT
from wenet_fusion_runtime.model.model_file import load_model

from wenet_fusion.cli.arguments import Verb
from wenet_fusion.evaluation.inspection import describe, draw_influence, influence
from wenet_fusion.export.targets.torchscript import reloaded, script, step_graph
from wenet_fusion.model.chunking import FULL_CONTEXT, parse_chunking
from wenet_fusion.model.operators import operators
from wenet_fusion.trained_model import acoustic_model, load_trained
from wenet_fusion.training.state.checkpoint import is_exported


def add(verb: Verb) -> None:
    """Add the verb to the command."""
    p = verb(
        "inspect",
        inspect,
        "Show a model's latency, its operators, and which input frames influence which output frames.",
        ["exp/avg_3.pt", "exp/final.zip --output context.png"],
    )
    p.add_argument("path", type=Path, help="checkpoint or exported file")
    p.add_argument("--frames", type=int, default=160, help="number of encoder frames to measure on")
    p.add_argument("--output", type=Path, help="picture of the influence to draw (PNG, SVG or PDF)")


def inspect(args: argparse.Namespace) -> int:
    """Run the verb and return the exit status."""
    if is_exported(args.path):
        model = load_model(args.path)
        if model.meta.kind not in KINDS:
            raise ValueError(f"{args.path}: is a model of {model.meta.kind}; see wenet-fusion-runtime info {args.path}")
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
