#!/usr/bin/env python3
"""Stream the recordings of a data.list through an exported model, in pieces of random length. Measure errors and
latency, and compare the tokens with those of offline evaluation.
"""

import argparse
import gc
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from streamed_recording import Streamed, stream_utterance
from timeline import Timeline, draw_timeline
from tqdm import tqdm
from wenet_fusion_runtime import DecodingOptions, Recognizer, Word
from wenet_fusion_runtime.console import HelpFormatter, run_main
from wenet_fusion_runtime.files import list_problems, write_text
from wenet_fusion_runtime.results.formats import ctm_lines
from wenet_fusion_runtime.search.modes import MODES

from wenet_fusion.data.lists.kaldi import read_table
from wenet_fusion.data.lists.manifest import scan_manifest
from wenet_fusion.data.sources import read_samples
from wenet_fusion.model.chunking import Chunking, chunking_label, parse_chunking
from wenet_fusion.scoring.ctm import keys_without_words, read_ctm
from wenet_fusion.scoring.emission_delays import emission_delays
from wenet_fusion.scoring.error_rate import align, score
from wenet_fusion.scoring.timestamp_errors import BoundaryErrors, match_all_words, timestamp_errors
from wenet_fusion.scoring.transcripts import Counting


class Percentiles(NamedTuple):
    """The 50th, 90th and 99th percentile."""

    p50: float
    p90: float
    p99: float


@dataclass(frozen=True)
class Report:
    """The contents of stream.json. Fields in ms are computing times, fields in seconds are durations of audio."""

    model: str
    data: str
    chunking: str
    mode: str
    seed: int
    utterances: int
    audio_seconds: float
    wer: float | None  # None: the transcripts have no word
    substitutions: int
    deletions: int
    insertions: int
    words: int
    utterances_wrong: int  # number of utterances with errors
    real_time_factor: float
    chunk_ms: Percentiles | None  # computation per chunk
    finalisation_ms: Percentiles | None  # from the last sample to the final text
    finalisation_processor_ms: Percentiles | None  # processor time from the last sample to the final text
    first_text_seconds: Percentiles | None  # from the start of the first word to the first text, computation included
    emission_delay_seconds: Percentiles | None  # from a word's end until it stays on the display, without computation
    upwr: float | None  # unstable partial word ratio: words shown and changed later, per word of the final text
    open_words: float | None  # mean number of words of a partial text that are not final yet
    timed_words: int  # number of correctly recognised words, whose times are compared with the CTM file
    start_errors_seconds: BoundaryErrors | None
    end_errors_seconds: BoundaryErrors | None
    compared: int  # number of utterances with tokens of offline evaluation
    same_tokens: int  # number of compared utterances with the same tokens
    different: list[str]  # keys of the compared utterances with other tokens
    without_times: list[str]  # utterances whose words are missing in the CTM file
    skipped: list[str]


def timeline_of(key: str, spoken: Sequence[Word], streamed: Streamed) -> Timeline:
    """Align the spoken words with the displayed words, for a picture."""
    shown: list[float | None] = []
    position = 0
    for pair in align([word.text for word in spoken], streamed.words).pairs:
        if pair.reference is not None:
            shown.append(streamed.shown[position] if pair.reference == pair.hypothesis else None)
        position += pair.hypothesis is not None
    return Timeline(key, tuple(spoken), tuple(shown))


def percentiles(values: Sequence[float], factor: float = 1.0) -> Percentiles | None:
    """Return the percentiles of values; None if there are no values."""
    if not len(values):
        return None
    return Percentiles(*(round(float(value) * factor, 4) for value in np.percentile(values, (50, 90, 99))))


def streamed_chunking(label: str) -> Chunking:
    """Parse a chunking other than full context, which cannot be streamed."""
    if label == "full":
        raise argparse.ArgumentTypeError("'full' cannot be streamed; give SIZE/LEFT in frames and chunks, such as 16/4")
    try:
        return parse_chunking(label)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def print_report(report: Report) -> None:
    """Print a summary of the report."""
    rate = "no word spoken" if report.wer is None else f"{100 * report.wer:.2f} % of {report.words} words"
    print(
        f"{report.data}, chunks {report.chunking}, {report.mode}: {report.utterances} utterances,"
        f" {report.audio_seconds / 60:.1f} min\n"
        f"  errors               {rate} (substituted {report.substitutions}, deleted {report.deletions},"
        f" inserted {report.insertions})\n"
        f"  real-time factor     {report.real_time_factor:.4f}"
    )
    for title, value, unit in (
        ("chunk", report.chunk_ms, "ms"),
        ("finalisation", report.finalisation_ms, "ms"),
        ("  processor time", report.finalisation_processor_ms, "ms"),
        ("first text after", report.first_text_seconds, "s"),
        ("word shown after", report.emission_delay_seconds, "s"),
    ):
        if value is not None:
            numbers = " / ".join(f"{number:.3g}" for number in value)
            print(f"  {title:20} {numbers} {unit} (50 / 90 / 99 % of cases)")
    if report.upwr is not None and report.open_words is not None:
        print(
            f"  partial texts        {100 * report.upwr:.2f} words shown and changed later per 100 final words,"
            f" {report.open_words:.2f} words of a partial text could still change"
        )
    for title, errors in (("word starts", report.start_errors_seconds), ("word ends", report.end_errors_seconds)):
        if errors is not None:
            print(
                f"  {title:20} wrong by {errors.mean:.3f} s on average, {errors.p50:.3f} / {errors.p95:.3f} s (50 / "
                "95 % of"
                f" {report.timed_words} words)"
            )
    if report.compared:
        print(f"  tokens               {report.same_tokens} of {report.compared} utterances as in offline evaluation")
    if report.without_times:
        print(f"without times in the CTM file {len(report.without_times)}:\n{list_problems(report.without_times)}")
    if report.skipped:
        print(f"skipped {len(report.skipped)}:\n{list_problems(report.skipped)}")


def build_report(
    args: argparse.Namespace,
    mode: str,
    streamed: Mapping[str, Streamed],
    references: Mapping[str, str],
    spoken: Mapping[str, Sequence[Word]],
    audio_seconds: float,
    without_times: list[str],
    skipped: list[str],
) -> Report:
    """Compute all results of a run. Delays and timestamp errors need `spoken`, the word times of a CTM file."""
    offline = read_table(args.reference_tokens) if args.reference_tokens else {}
    compared = [key for key in streamed if key in offline]
    different = [key for key in compared if offline[key].split() != [str(unit) for unit in streamed[key].ids]]
    texts = {key: " ".join(item.words) for key, item in streamed.items()}
    scoring = score({key: references[key] for key in streamed}, texts, Counting("mixed"))
    firsts = []
    for key in spoken.keys() & streamed.keys():
        if (first := streamed[key].first_text) is not None:
            firsts.append(first - spoken[key][0].start_seconds + streamed[key].first_text_compute)
    total = scoring.total
    final_words = sum(len(item.words) for item in streamed.values())
    open_words = [count for item in streamed.values() for count in item.open_words]
    shown = {
        key: [Word(text, seconds, seconds, 1.0) for text, seconds in zip(item.words, item.shown)]
        for key, item in streamed.items()
    }
    pairs = match_all_words(spoken, {key: item.timed for key, item in streamed.items()})
    times = timestamp_errors(pairs) if pairs else None
    return Report(
        model=str(args.model),
        data=str(args.data),
        chunking=chunking_label(args.chunking),
        mode=mode,
        seed=args.seed,
        utterances=len(streamed),
        audio_seconds=round(audio_seconds, 3),
        wer=total.rate if total.reference else None,
        substitutions=total.substitutions,
        deletions=total.deletions,
        insertions=total.insertions,
        words=total.reference,
        utterances_wrong=sum(utterance.counts.errors > 0 for utterance in scoring.utterances),
        real_time_factor=sum(item.compute for item in streamed.values()) / audio_seconds,
        chunk_ms=percentiles([value for item in streamed.values() for value in item.chunk_compute], 1000),
        finalisation_ms=percentiles([item.final_compute for item in streamed.values()], 1000),
        finalisation_processor_ms=percentiles([item.final_processor for item in streamed.values()], 1000),
        first_text_seconds=percentiles(firsts),
        emission_delay_seconds=percentiles(emission_delays(match_all_words(spoken, shown))),
        upwr=sum(item.changed for item in streamed.values()) / final_words if final_words else None,
        open_words=float(np.mean(open_words)) if open_words else None,
        timed_words=len(pairs),
        start_errors_seconds=times and times.starts,
        end_errors_seconds=times and times.ends,
        compared=len(compared),
        same_tokens=len(compared) - len(different),
        different=different,
        without_times=without_times,
        skipped=skipped,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("model", type=Path, help="exported file")
    parser.add_argument("data", type=Path, help="data.list")
    parser.add_argument("--data_type", choices=("auto", "raw", "shard"), default="auto", help="auto: by the first line")
    parser.add_argument(
        "--chunking", type=streamed_chunking, default="16/4", help="frames per chunk / chunks of left context"
    )
    parser.add_argument("--mode", choices=MODES, help="search mode; default: the model's")
    parser.add_argument(
        "--commit_seconds", type=float, help="make words final at this age in seconds; default: at the segment's end"
    )
    parser.add_argument("--reference_tokens", type=Path, help="`tokens` file of offline evaluation, to compare with")
    parser.add_argument(
        "--ctm",
        type=Path,
        help="CTM file with the times of all words (`wenet-fusion align` writes one); needed for delays, timestamp "
        "errors and the picture",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random cuts")
    parser.add_argument(
        "--output", type=Path, required=True, help="folder for stream.json, text, words.ctm and timeline.png"
    )
    args = parser.parse_args(arguments)

    recognizer = Recognizer(args.model, DecodingOptions(mode=args.mode, commit_seconds=args.commit_seconds))
    gc.collect()
    gc.freeze()  # as in the commands; see `build_recognizer` in the runtime
    rate = recognizer.model.meta.sample_rate
    listed = scan_manifest(args.data, args.data_type)
    utterances = {utterance.key: utterance for utterance in listed.utterances}
    references = {key: utterance.text for key, utterance in utterances.items()}
    spoken = read_ctm(args.ctm) if args.ctm else {}
    without_times = keys_without_words(spoken, references, args.ctm) if args.ctm else []
    streamed: dict[str, Streamed] = {}
    skipped = list(listed.problems)
    audio_seconds = 0.0
    bar = tqdm(utterances, desc=f"stream {chunking_label(args.chunking)}", unit="utt", leave=False, disable=None)
    for index, key in enumerate(bar):
        try:
            samples = read_samples(utterances[key], rate)
        except (ValueError, OSError) as error:
            skipped.append(f"{key}: {error}")
            continue
        rng = np.random.default_rng([args.seed, index])
        streamed[key] = stream_utterance(recognizer, samples, *args.chunking, rng)
        audio_seconds += len(samples) / rate
    if not streamed:
        raise ValueError(f"no utterance of {args.data} could be read; the first problem: {skipped[0]}")

    report = build_report(
        args, recognizer.options.mode, streamed, references, spoken, audio_seconds, without_times, skipped
    )
    args.output.mkdir(parents=True, exist_ok=True)
    texts = "".join(" ".join([key, *item.words]) + "\n" for key, item in streamed.items())
    write_text(args.output / "text", texts)
    write_text(args.output / "words.ctm", "".join(ctm_lines(key, item.timed) for key, item in streamed.items()))
    plain = {
        name: value._asdict() if isinstance(value, (Percentiles, BoundaryErrors)) else value
        for name, value in asdict(report).items()
    }
    write_text(args.output / "stream.json", json.dumps(plain, indent=1) + "\n")
    drawable = [key for key in spoken if key in streamed]
    if drawable:
        # The picture shows the longest correct utterance.
        right = [key for key in drawable if streamed[key].words == tuple(word.text for word in spoken[key])]
        best = max(right or drawable, key=lambda key: len(spoken[key]))
        line = timeline_of(best, spoken[best], streamed[best])
        samples = read_samples(utterances[best], rate)
        chunk_seconds = args.chunking.size * recognizer.model.meta.frame_seconds
        draw_timeline(line, samples, rate, chunk_seconds, report.chunking, args.output / "timeline.png")
    print_report(report)
    return 1 if report.skipped or report.without_times else 0


if __name__ == "__main__":
    run_main(main)
