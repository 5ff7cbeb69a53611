"""The verb `align`."""

import argparse
from pathlib import Path

from wenet_fusion_runtime.model.model_file import read_meta
from wenet_fusion_runtime.results.timestamps import EmissionDelay

from wenet_fusion.cli.arguments import Verb, print_skipped
from wenet_fusion.data.lists.manifest import scan_manifest
from wenet_fusion.evaluation.timestamps.forced_alignment import (
    AlignedUtterance,
    AlignmentOptions,
    align,
    write_alignment,
)
from wenet_fusion.model.chunking import chunking_label, parse_chunking
from wenet_fusion.trained_model import load_trained

DOUBTFUL = 0.5  # words below this confidence are printed with their confidence


def add(verb: Verb) -> None:
    """Add the verb to the command."""
    p = verb(
        "align",
        align_command,
        "Align transcripts with their audio (forced alignment), write timestamps and, with --worst N, list the "
        "transcripts that fit worst.",
        [
            "exp/avg_3.pt --data data/test/data.list --output exp/align",
            "exp/avg_3.pt --data data/test/data.list --output exp/align --word_times exp/final.zip --worst 20",
        ],
    )
    p.add_argument("checkpoint", type=Path, help="checkpoint to align with")
    p.add_argument("--data", type=Path, required=True, help="data.list with transcripts")
    p.add_argument(
        "--output", type=Path, required=True, help="folder for words.ctm, tokens.ctm, textgrid/ and alignment.json"
    )
    p.add_argument("--chunking", default="full", metavar="LABEL", help="chunking, 'full' or SIZE/LEFT such as 16/4")
    p.add_argument(
        "--word_times",
        type=Path,
        metavar="EXPORTED",
        help="take the emission delay from this exported file and correct the timestamps with it",
    )
    p.add_argument(
        "--worst", type=int, default=0, metavar="N", help="print the N utterances that fit their transcripts worst"
    )


def align_command(args: argparse.Namespace) -> int:
    """Run the verb and return the exit status: 1 if an utterance could not be aligned."""
    if args.worst < 0:
        raise ValueError(f"--worst {args.worst}: must be at least 0")
    options = AlignmentOptions(parse_chunking(args.chunking), _emission_delay(args.word_times))
    trained = load_trained(args.checkpoint)
    utterances, problems = scan_manifest(args.data)
    aligned = align(trained, utterances, options)
    aligned = aligned._replace(skipped=[*problems, *aligned.skipped])
    write_alignment(aligned, args.output)
    if args.worst:
        print("   score confidence utterance: words, doubtful ones with their confidence")
    for utterance in aligned.worst(args.worst):
        print(format_utterance(utterance))
    words = sum(len(utterance.words) for utterance in aligned.utterances)
    skipped = len(aligned.skipped)
    print(
        f"{args.output}: {words} words of {len(aligned.utterances)} utterances aligned, "
        f"chunking {chunking_label(options.chunking)}, {skipped} utterance{'s' * (skipped != 1)} skipped"
    )
    if args.word_times is None:
        print("timestamps are emission times; --word_times EXPORTED corrects them for the emission delay")
    print_skipped(aligned.skipped)
    return 1 if aligned.skipped else 0


def _emission_delay(path: Path | None) -> EmissionDelay:
    if path is None:
        return EmissionDelay()
    found = read_meta(path).emission_delay
    if found == EmissionDelay():
        raise ValueError(f"{path} holds no emission delay: export it with --data and --ctm, or leave --word_times out")
    return found


def format_utterance(utterance: AlignedUtterance) -> str:
    """Return the line of an utterance: score, confidence, key and words, doubtful words with their confidence."""
    words = [
        word.text if word.confidence >= DOUBTFUL else f"{word.text}({word.confidence:.2f})" for word in utterance.words
    ]
    return f"{utterance.score:8.4f}      {utterance.confidence:.3f} {utterance.key}: {' '.join(words)}"
