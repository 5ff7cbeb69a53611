"""The verb `export`."""

import argparse
from pathlib import Path

from wenet_fusion.cli.arguments import Verb
from wenet_fusion.export.acceptance import ExportOptions
from wenet_fusion.export.export_formats import FORMATS, MEANINGS, ExportRequest, explain_precisions, export_model
from wenet_fusion.export.speech import Speech, read_speech
from wenet_fusion.model.chunking import parse_chunking
from wenet_fusion.trained_model import load_trained


def add(verb: Verb) -> None:
    """Add the verbs to the parser."""
    p = verb(
        "export",
        export,
        "Export a checkpoint to a fused, verified file for this project's runtime, WeNet's or sherpa-onnx.",
        [
            "exp/avg_3.pt exp/final.zip --data data/dev/data.list",
            "exp/avg_3.pt exp/int8.zip --format onnx --precision int8 --data data/dev/data.list",
        ],
    )
    p.add_argument("checkpoint", type=Path)
    p.add_argument("output", type=Path, help="file to write; a folder for wenet-onnx")
    p.add_argument(
        "--format",
        choices=FORMATS,
        default="torchscript",
        help="torchscript serves our runtime and WeNet's libtorch runtime; onnx our runtime without torch",
    )
    p.add_argument(
        "--chunking", metavar="SIZE/LEFT", help="wenet-onnx, sherpa-onnx: what the file is for; default: the model's"
    )
    p.add_argument(
        "--data",
        type=Path,
        help="data.list: compare the text of some of its utterances too, and judge int8 by their error rate",
    )
    p.add_argument("--num_utterances", type=int, default=100, help="of --data, spread over the list")
    p.add_argument(
        "--ctm",
        type=Path,
        help="torchscript, onnx: when the words of --data are spoken; without it results date words by when they are emitted",
    )
    p.add_argument("--precision", choices=MEANINGS, default="float32", help=explain_precisions())
    p.add_argument(
        "--max_wer_increase",
        type=float,
        default=0.5,
        help="int8, int8-dynamic: percentage points of word errors that it may add on --data, else it is refused",
    )


def export(args: argparse.Namespace) -> int:
    trained = load_trained(args.checkpoint)
    speech: list[Speech] = []
    if args.ctm is not None and args.data is None:
        raise ValueError(f"--ctm {args.ctm}: give the data.list that it belongs to with --data")
    if args.data is not None:
        speech = read_speech(args.data, trained.config.model.frontend.sample_rate, args.num_utterances, args.ctm)
    chunking = None if args.chunking is None else parse_chunking(args.chunking)
    request = ExportRequest(args.format, chunking, ExportOptions(args.precision, args.max_wer_increase / 100))
    try:
        told = export_model(trained, args.output, request, speech)
    except ImportError as error:  # an optional package; the message says how to install it
        raise ValueError(str(error)) from error
    print("\n".join(told))
    return 0
