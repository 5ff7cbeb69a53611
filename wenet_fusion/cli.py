"""The command `wenet-fusion`: parses arguments, calls one function for each verb, prints what it returns."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from wenet_fusion.checks import BOUND, check_data, check_model
from wenet_fusion.chunking import FULL_CONTEXT, parse_chunking
from wenet_fusion.console import run_main
from wenet_fusion.data.dataset import Skip
from wenet_fusion.deployment import acoustic_model
from wenet_fusion.error_rate import score
from wenet_fusion.evaluation import ALL_MODES, EvaluationOptions, Row, evaluate
from wenet_fusion.export.formats import FORMATS, PRECISIONS, ExportRequest, export_model
from wenet_fusion.export.speech import Speech, read_speech
from wenet_fusion.export.torchscript import reloaded, script
from wenet_fusion.files import read_table
from wenet_fusion.inspection import describe, draw_influence, influence
from wenet_fusion.models.operators import operators
from wenet_fusion.recipe import average, build_trainer, load_trained, measure, read_recipe
from wenet_fusion.training.averaging import choose_checkpoints
from wenet_fusion.training.checkpoint import is_exported, save_model
from wenet_fusion.training.checkpoint import load_model as load_checkpoint
from wenet_fusion_runtime.audio import load_audio
from wenet_fusion_runtime.meta import TORCHSCRIPT
from wenet_fusion_runtime.model_file import load_model

MAX_SHOWN = 20


def train(args: argparse.Namespace) -> int:
    config = read_recipe(args.config, args.overrides)
    args.model_dir.mkdir(parents=True, exist_ok=True)
    trainer = build_trainer(config, args.train_data, args.dev_data, args.model_dir, _device(args.device))
    datasets = {"training": trainer.train_data, "dev": trainer.dev_data}
    for name, dataset in datasets.items():
        print(f"{name}: {len(dataset)} utterances, {sum(dataset.seconds) / 3600:.2f} h, {len(dataset.skipped)} skipped")
        _print_skipped(dataset.skipped)
    told = {name: len(dataset.skipped) for name, dataset in datasets.items()}
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    print(f"model: {parameters / 1e6:.2f} M parameters on {trainer.device}")
    (args.model_dir / "train.yaml").write_text(trainer.identity.config_yaml)
    trainer.run()
    for name, dataset in datasets.items():
        _print_skipped(dataset.skipped[told[name] :])
    skipped = sum(len(dataset.skipped) for dataset in datasets.values())
    print(f"{args.model_dir}: trained to step {trainer.step}, {trainer.skipped_steps} updates skipped, {skipped} utterances skipped")
    return 0


def average_command(args: argparse.Namespace) -> int:
    paths = choose_checkpoints(args.model_dir, args.num, args.best)
    print(f"averaging {', '.join(path.name for path in paths)}")
    device = _device(args.device)
    averaged = average(paths, args.train_data, args.batches, device)
    _print_skipped(averaged.skipped)
    candidates = {f"average of {len(paths)}": averaged.checkpoint}
    if args.dev_data is not None:
        candidates[f"{paths[-1].name} alone"] = load_checkpoint(paths[-1])
        measured = {name: measure(checkpoint, args.dev_data, device) for name, checkpoint in candidates.items()}
        for name, (checkpoint, rate_name, skipped) in measured.items():
            candidates[name] = checkpoint
            print(f"{name}: dev {rate_name} {100 * checkpoint.dev_error_rate:.2f} %, dev loss {checkpoint.dev_loss:.3f}")
        _print_skipped(skipped)  # the same for each
    chosen = min(candidates, key=lambda name: (candidates[name].dev_error_rate, candidates[name].dev_loss))
    save_model(candidates[chosen], args.output)
    print(f"{args.output}: {chosen}")
    return 0


def evaluate_command(args: argparse.Namespace) -> int:
    trained = load_trained(args.checkpoint)
    chunkings = tuple(parse_chunking(label) for label in args.chunkings or ())
    options = EvaluationOptions(
        modes=tuple(args.modes), beam_size=args.beam_size, ctc_weight=args.ctc_weight, reverse_weight=args.reverse_weight,
        chunkings=chunkings or (FULL_CONTEXT, *reversed(trained.config.training.chunking.served())), unit=args.unit,
    )
    args.result_dir.mkdir(parents=True, exist_ok=True)
    result = evaluate(trained, args.data, options, args.result_dir)
    print(format_rows(result.rows))
    _print_skipped(result.skipped)
    return 1 if result.skipped else 0


def format_rows(rows: Sequence[Row]) -> str:
    """The result table as text."""
    lines = [f"{'mode':24} {'chunking':>8} {'errors %':>9} {'sub':>5} {'del':>5} {'ins':>5} {'of':>6}"]
    lines += [
        f"{row.mode:24} {row.chunking:>8} {100 * row.wer:9.2f} {row.substitutions:5} {row.deletions:5} {row.insertions:5} {row.words:6}"
        for row in rows
    ]
    return "\n".join(lines)


def score_command(args: argparse.Namespace) -> int:
    result = score(read_table(args.reference), read_table(args.hypothesis), args.unit)
    print(result.report(), end="")
    return 1 if result.missing or result.extra else 0


def export(args: argparse.Namespace) -> int:
    trained = load_trained(args.checkpoint)
    speech: list[Speech] = []
    if args.data is not None:
        speech = read_speech(args.data, trained.config.model.frontend.sample_rate, args.num_utterances)
    chunking = None if args.chunking is None else parse_chunking(args.chunking)
    request = ExportRequest(args.format, args.precision, chunking, args.max_wer_increase / 100)
    try:
        told = export_model(trained, args.output, request, speech)
    except ImportError as error:  # an optional package; the message says how to install it
        raise ValueError(str(error)) from error
    print("\n".join(told))
    return 0


def check(args: argparse.Namespace) -> int:
    if args.what == "data":
        report = check_data(read_recipe(args.config, args.overrides), args.path)
        print(f"{args.path}: {report.utterances} utterances, {report.hours:.2f} h usable; {len(report.skipped)} not")
        _print_skipped(report.skipped)
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
        counts = dict(operators(model.backend.step_graph()) if scripted else model.meta.verification["operators"])
        chunkings = [parse_chunking(f"{size}/{model.meta.left(size)}") for size in model.meta.chunk_sizes]
    else:
        trained = load_trained(args.path)
        model, counts = acoustic_model(trained), dict(operators(reloaded(script(trained)).step.inlined_graph))
        chunkings = trained.config.training.chunking.served()
    chunkings = [] if model.meta.precision.startswith("int8") and args.output is None else [FULL_CONTEXT, *reversed(chunkings)]
    print(describe(model, counts, chunkings, args.frames))
    if args.output is not None:
        drawn = [influence(model, chunking, args.frames) for chunking in chunkings]
        draw_influence(drawn, model.meta.frame_seconds, args.output)
        print(f"\n{args.output}: which input frames reach which outputs")
    return 0


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # what torch raises depends on how it was built
        raise ValueError(f"--device {name} cannot be used here ({str(error).splitlines()[0]}); give cpu or auto") from None
    return device


def _print_skipped(skips: Sequence[Skip | str]) -> None:
    for skip in skips[:MAX_SHOWN]:
        print(f"skipped {skip}", file=sys.stderr)
    if len(skips) > MAX_SHOWN:
        print(f"skipped {len(skips) - MAX_SHOWN} more", file=sys.stderr)


def build_parser() -> argparse.ArgumentParser:
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(prog="wenet-fusion", description="Streaming speech recognition with FusionFormer.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name, function, text):
        added = verbs.add_parser(name, help=text, description=text, formatter_class=formatter)
        added.set_defaults(function=function)
        return added

    p = verb("train", train, "train a model, or go on where an interrupted run stopped")
    p.add_argument("--config", type=Path, required=True, help="YAML file")
    p.add_argument("--train_data", type=Path, required=True, help="data.list")
    p.add_argument("--dev_data", type=Path, required=True, help="data.list")
    p.add_argument("--model_dir", type=Path, required=True, help="where checkpoints, logs and TensorBoard files go")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    p.add_argument("overrides", nargs="*", metavar="key=value", help="configuration values, such as training.max_steps=100")

    p = verb("average", average_command, "average checkpoints and re-estimate their BatchNorm statistics")
    p.add_argument("--model_dir", type=Path, required=True, help="directory with step_*.pt")
    p.add_argument("--num", type=int, default=5, help="how many checkpoints")
    p.add_argument("--best", action="store_true", help="those with the lowest dev loss instead of the last ones")
    p.add_argument("--train_data", type=Path, required=True, help="data.list for the statistics")
    p.add_argument("--batches", type=int, default=30, help="batches for the statistics")
    p.add_argument("--dev_data", type=Path, help="data.list: keep the last checkpoint instead if it is better on this")
    p.add_argument("--output", type=Path, required=True, help="checkpoint to write")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")

    p = verb("evaluate", evaluate_command, "decode a data.list in several modes and chunkings and print error rates")
    p.add_argument("--checkpoint", type=Path, required=True)
    p.add_argument("--data", type=Path, required=True, help="data.list with transcripts")
    p.add_argument("--result_dir", type=Path, required=True)
    p.add_argument("--modes", nargs="+", default=list(ALL_MODES), choices=ALL_MODES, metavar="MODE", help="of " + ", ".join(ALL_MODES))
    p.add_argument("--chunkings", nargs="+", metavar="LABEL", help="'full' or SIZE/LEFT such as 16/4; default: all trained")
    p.add_argument("--beam_size", type=int, default=10)
    p.add_argument("--ctc_weight", type=float, help="of the CTC score in rescoring; default: the model's")
    p.add_argument("--reverse_weight", type=float, help="share of the right-to-left decoder; default: the model's")
    p.add_argument("--unit", choices=("word", "char"), default="word", help="what errors are counted in")

    p = verb("score", score_command, "align two transcript files ('key words' lines) and count errors")
    p.add_argument("reference", type=Path)
    p.add_argument("hypothesis", type=Path)
    p.add_argument("--unit", choices=("word", "char"), default="word", help="what errors are counted in")

    p = verb("export", export, "write a fused, verified file for our runtime, WeNet's or sherpa-onnx")
    p.add_argument("checkpoint", type=Path)
    p.add_argument("output", type=Path, help="file to write; a folder for wenet-onnx")
    p.add_argument("--format", choices=FORMATS, default="torchscript", help="torchscript serves our runtime and WeNet's libtorch runtime; onnx our runtime without torch")
    p.add_argument("--chunking", metavar="SIZE/LEFT", help="wenet-onnx, sherpa-onnx: what the file is for; default: the model's")
    p.add_argument("--data", type=Path, help="data.list: verify on its first utterances too")
    p.add_argument("--num_utterances", type=int, default=100, help="of --data")
    p.add_argument("--precision", choices=PRECISIONS["torchscript"], default="float32", help="float16-packed: faster on x86, same text; int8: calibrated on --data")
    p.add_argument("--max_wer_increase", type=float, default=0.5, help="int8: percentage points that its streamed text may lose on --data")

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
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    parser = build_parser()
    args, rest = parser.parse_known_args(arguments)
    # Once argparse has matched `overrides` with nothing, those that stand behind an option come back as unknown.
    unknown = [item for item in rest if item.startswith("-") or "=" not in item or not hasattr(args, "overrides")]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:
        args.overrides += rest
    if args.verb == "check" and args.what == "data" and args.config is None:
        parser.error("check data needs --config, whose tokenizer and front-end say what is usable")
    return args.function(args)


def run() -> None:
    """Console entry: errors of the user end with one message, not a traceback."""
    run_main(main)


if __name__ == "__main__":
    run()
