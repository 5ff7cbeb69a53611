#!/usr/bin/env python3
"""Measure the effects of endpoint rules: join the recordings of a data.list with pauses, and decode them as one."""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from skipped_recordings import all_problems, report_skipped
from tqdm import tqdm
from wenet_fusion_runtime import (
    AcousticModel,
    DecodingOptions,
    EndpointRules,
    Meta,
    load_language_model,
    load_model,
)
from wenet_fusion_runtime.console import HelpFormatter, run_main
from wenet_fusion_runtime.model.acoustic_model import StepScores
from wenet_fusion_runtime.results.result import Endpoint, Result, joined_ids
from wenet_fusion_runtime.search.modes import MODES, RESCORING
from wenet_fusion_runtime.stream.offline import decode_rows, offline_step

from wenet_fusion.data.lists.manifest import scan_manifest
from wenet_fusion.evaluation.decode_list import read_batch
from wenet_fusion.scoring.error_rate import score

RULES = ("off/off/20", "off/off/5", "5/1/20", "2.4/1.2/20", "2.4/0.8/20", "2.4/0.4/20", "2.4/0.2/20")
ONE_SEGMENT = EndpointRules(rule3_seconds=1e7)
TITLES = (
    "rule 1/2/3, s", "segments", "by rule 1", "by rule 2", "by rule 3", "complete", "without text",
    "mean / longest, s", "word error rate", "edits to uncut", "cut off", "final after the last word, 50 / 90 %",
)  # fmt: skip


class Effect(NamedTuple):
    """The effect of one set of rules on the long recording."""

    segments: int
    closed_by: Counter[Endpoint]
    empty: int  # number of segments without text
    seconds: list[float]  # lengths of all segments
    error_rate: float
    cut_off: int  # number of turns in which a rule closed a segment between two words
    turns: int
    edits: int | None  # edits between this text and the text without rules; None: there is no text without rules
    delays: list[float]  # seconds from a segment's last word until a rule closed the segment, except for cut-offs


class Turn(NamedTuple):
    """The position of a turn (one or more recordings, without the pause after it) in the long recording, in seconds."""

    start: float
    end: float


def parse_rules(label: str) -> EndpointRules:
    """Parse `RULE1/RULE2/RULE3`, with an optional `/P[:SECONDS[:PAUSE]]` for complete sentences; `off` for no rule.

    Raises:
        ValueError: the label has another form, or a value is out of its range.
    """
    try:
        parts = label.split("/")
        complete = parts.pop() if len(parts) == 4 else "off"
        first, second, third = (None if part == "off" else float(part) for part in parts)
        if third is None:
            raise ValueError("rule 3 cannot be off")
        names = ("complete_probability", "complete_seconds", "complete_pause_seconds")
        values = [] if complete == "off" else list(map(float, complete.split(":")))
        if len(values) > len(names):
            raise ValueError("the fourth part is P, P:SECONDS or P:SECONDS:PAUSE")
        return replace(EndpointRules(first, second, third), **dict(zip(names, values)))
    except ValueError as error:
        raise ValueError(
            f"--rules {label}: give RULE1/RULE2/RULE3 such as 2.4/1.2/20 or off/off/20, perhaps with a fourth part "
            f"such as 0.5 or 0.5:0.4:0.2 ({error})"
        ) from None


def joined_turns(
    recordings: Sequence[np.ndarray], size: int, sample_rate: int, pauses: tuple[float, float], seed: int
) -> list[np.ndarray]:
    """Join every `size` recordings to a turn, with silences of random length in the range `pauses` (s) between them."""
    rng, turns = np.random.default_rng(seed), list[np.ndarray]()
    for first in range(0, len(recordings), size):
        parts = [recordings[first]]
        for samples in recordings[first + 1 : first + size]:
            parts += [np.zeros(round(rng.uniform(*pauses) * sample_rate), np.float32), samples]
        turns.append(np.concatenate(parts))
    return turns


def long_recording(
    recordings: Sequence[np.ndarray], sample_rate: int, pauses: tuple[float, float], seed: int
) -> tuple[np.ndarray, list[Turn]]:
    """Join the turns; a silence of random length in the range `pauses` (seconds) follows each of them."""
    rng, parts, turns, position = np.random.default_rng(seed), list[np.ndarray](), list[Turn](), 0
    for samples in recordings:
        parts += [samples, np.zeros(round(rng.uniform(*pauses) * sample_rate), np.float32)]
        turns.append(Turn(position / sample_rate, (position + len(samples)) / sample_rate))
        position += len(samples) + len(parts[-1])
    return np.concatenate(parts), turns


def decode(model: AcousticModel, step: StepScores, options: DecodingOptions, rules: EndpointRules) -> list[Result]:
    """Decode the long recording under one set of rules."""
    return decode_rows(model, step, replace(options, endpoint=rules))[0]


def text_of(segments: Sequence[Result], meta: Meta) -> str:
    """Return the text of several segments."""
    return meta.vocabulary.text(joined_ids(segments))


def cut_offs(segments: Sequence[Result], turn: Turn) -> set[float]:
    """Return the times at which segments closed between two words of one turn."""
    words = [(word.start_seconds + word.end_seconds) / 2 for segment in segments for word in segment.words]
    own = [word for word in words if turn.start <= word < turn.end]
    ends = {segment.end_seconds for segment in segments}
    return {end for end in ends if own and min(own) < end < max(own)}


def effect_of(
    segments: Sequence[Result], turns: Sequence[Turn], text: str, reference: str, uncut: str | None
) -> Effect:
    """Compare the segments with the turns, and their text with the reference and with the uncut text."""
    cuts = [cut_offs(segments, turn) for turn in turns]
    false_ends = set[float]().union(*cuts)
    delays = [
        segment.end_seconds - segment.words[-1].end_seconds
        for segment in segments
        if segment.words and segment.endpoint is not Endpoint.END and segment.end_seconds not in false_ends
    ]
    return Effect(
        segments=len(segments),
        closed_by=Counter(segment.endpoint for segment in segments),
        empty=sum(not segment.words for segment in segments),
        seconds=[segment.end_seconds - segment.start_seconds for segment in segments],
        cut_off=sum(map(bool, cuts)),
        turns=len(turns),
        error_rate=score({"all": reference}, {"all": text}).total.rate,
        edits=None if uncut is None else score({"all": uncut}, {"all": text}).total.errors,
        delays=delays,
    )


def row(label: str, effect: Effect) -> list[str]:
    """Return the cells of a row of the table, in the order of TITLES."""
    rules = (Endpoint.RULE1, Endpoint.RULE2, Endpoint.RULE3, Endpoint.COMPLETE)
    delay = "{:.2f} / {:.2f} s".format(*np.percentile(effect.delays, (50, 90))) if effect.delays else "-"
    return [
        label, str(effect.segments), *(str(effect.closed_by[rule]) for rule in rules), str(effect.empty),
        f"{np.mean(effect.seconds):.1f} / {max(effect.seconds):.1f}", f"{100 * effect.error_rate:.2f} %",
        "-" if effect.edits is None else str(effect.edits), f"{effect.cut_off} of {effect.turns}", delay,
    ]  # fmt: skip


def within_text(size: int, pauses: Sequence[float]) -> str:
    """Describe how recordings were joined to turns."""
    return f"turns of {size} with {pauses[0]:g} to {pauses[1]:g} s between, "


def add_pauses(parser: argparse.ArgumentParser, option: str, default: tuple[float, float], place: str) -> None:
    """Add an option for the shortest and the longest pause at a place, in seconds."""
    metavar = ("LEAST", "MOST")
    parser.add_argument(
        option, nargs=2, type=float, default=default, metavar=metavar, help=f"seconds of silence {place}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("model", type=Path, help="exported file")
    parser.add_argument("data", type=Path, help="data.list")
    parser.add_argument(
        "--rules",
        nargs="+",
        default=RULES,
        metavar="R1/R2/R3[/P[:SECONDS[:PAUSE]]]",
        help="seconds of rules 1, 2 and 3; off disables rule 1 or 2. A fourth part closes complete sentences: "
        "least probability that the sentence ends, shortest silence and mean pause in seconds",
    )
    parser.add_argument(
        "--language_model",
        type=Path,
        help="n-gram model that predicts ends of sentences, for a fourth part of --rules; it does not change the text",
    )
    add_pauses(parser, "--pauses", (0.0, 3.0), "after each turn")
    parser.add_argument("--recordings_per_turn", type=int, default=1, help="number of recordings joined to one turn")
    add_pauses(parser, "--pauses_within", (0.0, 1.0), "between the recordings of a turn")
    parser.add_argument("--repeat", type=int, default=1, help="number of times to use the list")
    parser.add_argument("--chunk", type=int, help="encoder frames per chunk; default: the model's")
    parser.add_argument("--mode", choices=MODES, help="search mode; default: the model's")
    parser.add_argument(
        "--commit_seconds",
        type=float,
        help="make words final once they are this many seconds old; default: at the end of the segment",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random pauses")
    args = parser.parse_args(arguments)
    for name in ("pauses", "pauses_within"):
        least, most = getattr(args, name)
        if not 0 <= least <= most < float("inf"):
            raise ValueError(f"--{name} {least:g} {most:g}: give two lengths in seconds, the shorter first")
    for name in ("repeat", "recordings_per_turn"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} {getattr(args, name)}: must be at least 1")
    rules = {label: parse_rules(label) for label in args.rules}

    model = load_model(args.model)
    meta, (utterances, skipped) = model.meta, scan_manifest(args.data)
    bar = tqdm(utterances, desc="read", unit="utt", leave=False, disable=None)
    found, unreadable = read_batch(bar, meta.sample_rate)
    skipped = all_problems(skipped, unreadable)
    if not found:
        raise ValueError(f"no utterance of {args.data} could be read; the first problem: {skipped[0]}")
    recordings = list(found.values()) * args.repeat
    reference = " ".join([utterance.text for utterance in utterances if utterance.key in found] * args.repeat)
    spoken = joined_turns(
        recordings, args.recordings_per_turn, meta.sample_rate, tuple(args.pauses_within), args.seed + 1
    )
    samples, turns = long_recording(spoken, meta.sample_rate, tuple(args.pauses), args.seed)
    chunk = args.chunk or meta.default_chunk
    step = offline_step(model, [samples], chunk, meta.left(chunk))
    options = DecodingOptions(args.mode, commit_seconds=args.commit_seconds).resolved(meta)
    language_model = None if args.language_model is None else load_language_model(args.language_model)
    # Rescoring has no uncut text, because the attention decoders cannot score half an hour as one sentence.
    uncut = None if options.mode == RESCORING else text_of(decode(model, step, options, ONE_SEGMENT), meta)
    print(
        f"{len(recordings)} recordings of {args.data} as one of {len(samples) / meta.sample_rate / 60:.1f} min, "
        + ("" if args.recordings_per_turn == 1 else within_text(args.recordings_per_turn, args.pauses_within))
        + f"pauses of {args.pauses[0]:g} to {args.pauses[1]:g} s (seed {args.seed}), chunks of {chunk}, "
        f"{options.mode}"
    )
    print("| " + " | ".join(TITLES) + " |\n|---" + "|--:" * (len(TITLES) - 1) + "|")
    for label, chosen in rules.items():
        if chosen.complete_probability is None:
            segments = decode(model, step, options, chosen)
        else:
            ends = replace(options, language_model=language_model, lm_weight=0.0)
            segments = decode(model, step, ends, chosen)
        effect = effect_of(segments, turns, text_of(segments, meta), reference, uncut)
        print("| " + " | ".join(row(label, effect)) + " |", flush=True)
    return report_skipped(skipped, "recordings")


if __name__ == "__main__":
    run_main(main)
