#!/usr/bin/env python3
"""Time the whole runtime, from audio to text, and the encoder alone, in one process with one thread.

The weights are random, but the posteriors are peaked and mostly blank, as those of a trained CTC head. The benchmark
also times the rescoring of a 20 s segment, and new processes from their start to their first text. Writes runtime.md
and runtime.json.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from parts.benchmark_report import Goal, goals_table, this_run, write_report
from parts.exported_files import build
from parts.runtime_calls import (
    ENCODER,
    FED_SECONDS,
    HYPOTHESES,
    PARTS,
    confidence,
    first_text,
    rescoring_calls,
    steps_of,
    whole_calls,
    whole_chunks,
)
from parts.speed_setup import SAMPLE_RATE, SEGMENT_SECONDS, measure, noise_of, parse_settings, peaked_model
from parts.timing import Timing
from tqdm import tqdm
from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.search.modes import GREEDY, PREFIX_BEAM

from wenet_fusion.evaluation.report.markdown import markdown_table
from wenet_fusion.model.chunking import Chunking, chunking_label

RATIO_GOAL, START_GOAL = 1.25, 3.0  # largest ratio to the encoder alone; seconds to the first text
STARTS = 5  # number of new processes for each file

Times = Mapping[str, Timing]


def main(arguments: Sequence[str] | None = None) -> int:
    settings = parse_settings(__doc__, arguments, "weights and audio")
    sizes, noise, starts = settings.sizes, noise_of(settings.seed), 1 if settings.is_quick else STARTS
    samples = noise[: int(sizes.seconds * SAMPLE_RATE)]
    trained = peaked_model(sizes, noise, settings.seed, sizes.decoder)

    whole: dict[Chunking, Times] = {}
    with tempfile.TemporaryDirectory() as folder:
        exported = build(trained, noise, Path(folder), settings.seed)
        confident = confidence(exported[0].model, sizes.chunkings[0], noise)
        for chunking in sizes.chunkings:
            calls = whole_calls(exported, chunking, whole_chunks(exported[0].model, chunking, samples))
            whole[chunking] = measure(calls, settings, chunking_label(chunking))
        rescoring = measure(rescoring_calls(exported, sizes.chunkings[0], noise), settings, "rescoring")
        bar = tqdm(exported, desc="new processes", leave=False, disable=None)
        started = {each.name: first_text(each.path, noise, starts).seconds for each in bar}
    run = this_run(settings.seed, os.getloadavg()[0])

    names = [each.name for each in exported]
    steps = {
        chunking: steps_of(exported[0].model, chunking, whole_chunks(exported[0].model, chunking, samples))
        for chunking in whole
    }
    goals = [goal for chunking, times in whole.items() for goal in whole_goals(times, names, chunking_label(chunking))]
    goals += [
        Goal(f"{name}: seconds from a new process to its first text", START_GOAL, found, at_most=True)
        for name, found in started.items()
    ]
    text = "\n\n".join(
        [
            "\n".join(run.lines()),
            f"{sizes.seconds:g} s of noise, fed {FED_SECONDS:g} s at a time; {sizes.vocabulary} tokens; whole chunks "
            f"only. {settings.effort}; the calls take turns. "
            f"In {noise.size / SAMPLE_RATE:g} s of the noise at {chunking_label(sizes.chunkings[0])}, a frame's most "
            f"probable token has a mean probability of {confident.best:.2f}; it is blank in "
            f"{100 * confident.blank:.0f} % of the frames.",
            *(
                f"At {chunking_label(chunking)}:\n\n{whole_table(times, names, steps[chunking])}"
                for chunking, times in whole.items()
            ),
            f"Rescoring of {SEGMENT_SECONDS} s:\n\n{rescoring_table(rescoring, names)}",
            goals_table(goals),
        ]
    )
    print(text)
    tables = {chunking_label(chunking): times for chunking, times in whole.items()} | {"rescoring": rescoring}
    times = {title: {name: timing._asdict() for name, timing in found.items()} for title, found in tables.items()}
    record = {"run": run, "goals": goals, "first_text_seconds": started, "times": times}
    write_report(settings.output, "runtime", text, record)
    return 0


def whole_table(times: Times, names: Sequence[str], steps: int) -> str:
    """Return a table of milliseconds per chunk; ratios are to the encoder alone."""
    rows = []
    for name in names:
        found = [times[f"{name}: {part}"].median / steps for part in PARTS]
        ratios = ["" if part in PARTS[:2] else f" ({value / found[0]:.2f} x)" for part, value in zip(PARTS, found)]
        rows.append([name, *(f"{value:.2f}{ratio}" for value, ratio in zip(found, ratios))])
    return markdown_table(["ms per chunk", *(part.replace("_", " ") for part in PARTS)], rows)


def whole_goals(times: Times, names: Sequence[str], label: str) -> list[Goal]:
    """Return the goals for the ratio of the whole runtime to the encoder alone."""
    return [
        Goal(
            f"{label}, {name}, {mode.replace('_', ' ')}: whole / encoder alone", RATIO_GOAL,
            times[f"{name}: {mode}"].median / times[f"{name}: {ENCODER}"].median, at_most=True,
        )
        for name in names
        for mode in (GREEDY, PREFIX_BEAM)
    ]  # fmt: skip


def rescoring_table(times: Times, names: Sequence[str]) -> str:
    head = ["ms per segment", *(f"{count} hypotheses" for count in HYPOTHESES)]
    return markdown_table(
        head, [[name, *(f"{times[f'{name}: {count}'].median:.0f}" for count in HYPOTHESES)] for name in names]
    )


if __name__ == "__main__":
    run_main(main)
