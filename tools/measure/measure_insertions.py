#!/usr/bin/env python3
"""Count the words that an exported model recognises in non-speech (see nonspeech_sounds.py): its insertions."""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from nonspeech_sounds import Sound, nonspeech_sounds
from skipped_recordings import all_problems, report_skipped
from tqdm import tqdm
from wenet_fusion_runtime import AcousticModel, DecodingOptions, load_model
from wenet_fusion_runtime.console import HelpFormatter, run_main
from wenet_fusion_runtime.model.metadata import Meta
from wenet_fusion_runtime.results.result import Result
from wenet_fusion_runtime.search.modes import MODES, SEARCH_MODES
from wenet_fusion_runtime.stream.offline import decode_rows, offline_step

from wenet_fusion.data.lists.manifest import scan_manifest
from wenet_fusion.evaluation.decode_list import read_batch
from wenet_fusion.evaluation.report.markdown import markdown_table

RECORDINGS = 100  # maximum number of recordings used from a data.list


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("model", type=Path, help="exported file")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each sound")
    parser.add_argument("--modes", nargs="+", choices=MODES, help="search modes; default: all that the model supports")
    parser.add_argument(
        "--speech", type=Path, help="data.list; its first 100 recordings are played backwards, as voices and babble"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random sounds")
    parser.add_argument("--show_texts", action="store_true", help="print the text recognised in each sound")
    args = parser.parse_args(arguments)
    if not args.seconds >= 1:
        raise ValueError(f"--seconds {args.seconds:g}: a sound needs at least one second")

    model = load_model(args.model)
    rate = model.meta.sample_rate
    options = {mode: DecodingOptions(mode).resolved(model.meta) for mode in args.modes or modes_of(model.meta)}
    utterances, skipped = scan_manifest(args.speech) if args.speech else ([], [])
    found, unreadable = read_batch(utterances[:RECORDINGS], rate)
    skipped = all_problems(skipped, unreadable)
    if args.speech and not found:
        raise ValueError(f"no recording of {args.speech} could be read; the first problem: {skipped[0]}")
    sounds = list(nonspeech_sounds(rate, args.seconds, list(found.values()), args.seed))
    words: Counter[tuple[str, str]] = Counter()  # by kind and mode
    for sound in tqdm(sounds, desc="sounds", unit="sound", leave=False, disable=None):
        for chunk in model.meta.chunk_sizes:
            for mode, text in texts_of(model, sound, chunk, options).items():
                words[sound.kind, mode] += len(text.split())
                if text and args.show_texts:
                    print(f"{sound.kind}, {sound.label}; chunks of {chunk}, {mode}: {text}")
    print_table(args.model, sounds, model.meta, list(options), words, args.seconds)
    return report_skipped(skipped, "recordings")


def modes_of(meta: Meta) -> tuple[str, ...]:
    """Return the searches that the model supports."""
    return tuple(mode for mode, search in SEARCH_MODES.items() if meta.decoder or not search.needs_decoder)


def texts_of(model: AcousticModel, sound: Sound, chunk: int, options: dict[str, DecodingOptions]) -> dict[str, str]:
    """Run the model once, and return the text of each search. Streams would give the same texts."""
    step = offline_step(model, [sound.samples], chunk, model.meta.left(chunk))
    return {mode: _text(decode_rows(model, step, chosen)[0]) for mode, chosen in options.items()}


def _text(segments: Sequence[Result]) -> str:
    return " ".join(result.text for result in segments if result.text)


def print_table(
    model: Path,
    sounds: Sequence[Sound],
    meta: Meta,
    modes: Sequence[str],
    words: Counter[tuple[str, str]],
    seconds: float,
) -> None:
    """Print a table of insertions per hour by kind of sound and search, and a line with the worst rate of each kind."""
    chunks = len(meta.chunk_sizes)
    hours = {kind: count * chunks * seconds / 3600 for kind, count in Counter(sound.kind for sound in sounds).items()}
    rows = [
        [kind, f"{duration:.2f}", *(f"{words[kind, mode] / duration:.0f}" for mode in modes)]
        for kind, duration in hours.items()
    ]
    print(markdown_table(["insertions per hour", "hours", *modes], rows))
    worst = {kind: max(words[kind, mode] for mode in modes) / duration for kind, duration in hours.items()}
    rates = ", ".join(f"{kind} {rate:.0f}" for kind, rate in worst.items())
    print(f"{model}: insertions per hour of non-speech sounds, in the worst of {len(modes)} modes: {rates}")


if __name__ == "__main__":
    run_main(main)
