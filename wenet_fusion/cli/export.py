"""The verb `export`."""

import argparse
from pathlib import Path

from wenet_fusion.cli.arguments import Verb
from wenet_fusion.export.description import MEANINGS, describe_export, explain_precisions
from wenet_fusion.export.flow import TARGETS, export_model
from wenet_fusion.export.speech import Speech, read_speech
from wenet_fusion.export.target import ExportOptions
from wenet_fusion.model.chunking import parse_chunking
from wenet_fusion.trained_model import load_trained


def add(verb: Verb) -> None:
    """Add the verb to the command."""
    p = verb(
        "export",
        export,
        "Export a checkpoint to a fused, verified file for this project's runtime, WeNet's or sherpa-onnx.",
        [
            "exp/avg_3.pt exp/final.zip --data data/dev/data.list",
            "exp/avg_3.pt exp/int8.zip --format onnx --precision int8 --data data/dev/data.list",
        ],
    )
    p.add_argument("checkpoint", type=Path, help="checkpoint to export, usually an average")
    p.add_argument("output", type=Path, help="file to write; a folder for wenet-onnx")
    p.add_argument(
        "--format",
        choices=TARGETS,
        default="torchscript",
        help="; ".join(f"{name}: {target.purpose}" for name, target in TARGETS.items()),
    )
    p.add_argument(
        "--chunking",
        metavar="SIZE/LEFT",
        help="chunking of a wenet-onnx or sherpa-onnx file: chunk size in encoder frames, left context in chunks "
        "(default: the model's largest chunk size)",
    )
    p.add_argument(
        "--data",
        type=Path,
        help="data.list to verify the file on; for int8 also to calibrate it and to measure its error rate",
    )
    p.add_argument(
        "--num_utterances", type=int, default=100, help="number of utterances of --data to use, spread over the list"
    )
    p.add_argument(
        "--ctm",
        type=Path,
        help="CTM file with word timestamps of --data, to measure the CTC emission delay; the runtime then corrects "
        "timestamps of torchscript and onnx files",
    )
    p.add_argument("--precision", choices=MEANINGS, default="float32", help=explain_precisions())
    p.add_argument(
        "--max_wer_increase",
        type=float,
        default=0.5,
        help="largest increase of the word error rate on --data that int8 may cause, in percentage points",
    )
    p.add_argument(
        "--measure_errors",
        action="store_true",
        help="measure the word error rate on --data for float files, too; for int8 it is always measured",
    )


def export(args: argparse.Namespace) -> int:
    """Export a checkpoint and print the results of verification."""
    trained = load_trained(args.checkpoint)
    speech: list[Speech] = []
    if args.ctm is not None and args.data is None:
        raise ValueError(f"--ctm {args.ctm}: give the data.list that it belongs to with --data")
    if args.data is not None:
        speech = read_speech(args.data, trained.config.model.frontend.sample_rate, args.num_utterances, args.ctm)
    chunking = None if args.chunking is None else parse_chunking(args.chunking)
    if args.measure_errors and not speech:
        raise ValueError("--measure_errors: give the data.list to measure on with --data")
    options = ExportOptions(args.format, args.precision, chunking, args.max_wer_increase / 100, args.measure_errors)
    try:
        exported = export_model(trained, args.output, options, speech)
    except ImportError as error:  # an optional package; the message says how to install it
        raise ValueError(str(error)) from error
    default = trained.config.training.chunking.served()[-1]
    print("\n".join(describe_export(exported, options, chunking or default)))
    return 0
