"""The tables and goals of the encoder benchmark.

All ratios are ratios of medians from one run.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from parts.benchmark_report import Goal
from parts.candidates import (
    CHANGES,
    CONFORMER,
    FLOAT16,
    FLOAT32,
    INT8,
    INT8_DYNAMIC,
    LINEAR,
    ONNX_FLOAT32,
    OURS,
    Candidate,
    Change,
    change_name,
)
from parts.encoder_variants import Kind
from parts.random_models import Shape
from parts.timing import Timing

from wenet_fusion.evaluation.report.markdown import markdown_table
from wenet_fusion.model.chunking import Chunking, chunking_label

Times = Mapping[Shape, Mapping[str, Timing]]  # by shape and name of the candidate
# Least ratios of the Conformer's time to ours. A pair gives the goals at the largest and at the smallest chunk.
FLOAT_GOALS = {"onnxruntime": (1.45, 2.2), "TorchScript": (2.6, 4.5)}
INT8_GOALS = {"": 1.9, " (stretch goal)": 2.2}
LINEAR_GOALS = {"": (1.6, 1.8), " (stretch goal)": (1.35, 1.35)}  # largest ratios of a step to its linear layers
BATCH_GOAL = 3.0  # least ratio of the time of a stream alone to the time per stream in a batch


class Best(NamedTuple):
    """The fastest variant."""

    name: str  # engine and precision
    milliseconds: float


def best(
    times: Mapping[str, Timing], candidates: Sequence[Candidate], model: str, kind: Kind, engine: str = ""
) -> Best:
    """Return the fastest variant of a model and kind, on one engine or, by default, on any."""
    found = [
        Best(candidate.variant.name, times[candidate.name].median)
        for candidate in candidates
        if candidate.model == model and candidate.variant.kind == kind and candidate.variant.name.startswith(engine)
    ]
    return min(found, key=lambda variant: variant.milliseconds)


def variants_table(times: Times, candidates: Sequence[Candidate], chunkings: Sequence[Chunking]) -> str:
    """Return a table of milliseconds per step of one stream. A second column for each chunking says how many times as
    fast a variant is as the Conformer's fastest variant of the same kind.
    """
    head = ["one stream, ms per step"]
    for chunking in chunkings:
        head += [chunking_label(chunking), "times as fast"]
    rows = []
    for candidate in candidates:
        if candidate.model == CHANGES:
            continue
        row = [f"{candidate.model}, {candidate.variant.name}"]
        for chunking in chunkings:
            shape = times[Shape(chunking, 1)]
            found = shape[candidate.name].median
            reference = best(shape, candidates, CONFORMER, candidate.variant.kind).milliseconds
            row += [f"{found:.2f}", "" if candidate.model == LINEAR else f"{reference / found:.2f}"]
        rows.append(row)
    return markdown_table(head, rows)


def batch_table(times: Times, candidates: Sequence[Candidate], batches: Sequence[int]) -> str:
    """Return a table of milliseconds per step and stream."""
    chunkings = list(dict.fromkeys(shape.chunking for shape in times))
    shapes = [Shape(chunking, batch) for chunking in chunkings for batch in batches]
    head = ["ms per step and stream", *(shape.label for shape in shapes)]
    rows = []
    for candidate in candidates:
        if candidate.model in (CHANGES, LINEAR):
            continue
        cells = [times[shape][candidate.name].median / shape.batch for shape in shapes]
        rows.append([f"{candidate.model}, {candidate.variant.name}", *(f"{cell:.2f}" for cell in cells)])
    return markdown_table(head, rows)


def step_goals(times: Times, candidates: Sequence[Candidate], chunkings: Sequence[Chunking]) -> list[Goal]:
    """Return the goals for one stream at the largest and the smallest chunk."""
    found = []
    for end, chunking in enumerate((chunkings[0], chunkings[-1])):
        shape, label = times[Shape(chunking, 1)], chunking_label(chunking)
        ours = best(shape, candidates, OURS, "float", "TorchScript")
        for engine, wanted in FLOAT_GOALS.items():
            theirs = best(shape, candidates, CONFORMER, "float", engine)
            what = f"{label}, float: {ours.name} against the Conformer's {theirs.name}"
            found.append(Goal(what, wanted[end], theirs.milliseconds / ours.milliseconds))
        ours, theirs = (best(shape, candidates, model, "int8") for model in (OURS, CONFORMER))
        what = f"{label}, int8: {ours.name} against the Conformer's {theirs.name}"
        for suffix, wanted in INT8_GOALS.items():
            found.append(Goal(what + suffix, wanted, theirs.milliseconds / ours.milliseconds))
        whole, linear = (shape[f"{model}: {INT8}"].median for model in (OURS, LINEAR))
        what = f"{label}, {INT8}: whole step / time of its linear layers"
        for suffix, limits in LINEAR_GOALS.items():
            found.append(Goal(what + suffix, limits[end], whole / linear, at_most=True))
    return found


def batch_goals(times: Times, chunking: Chunking, batch: int) -> list[Goal]:
    """Return the goals for the time per stream in a batch, relative to one stream alone."""
    found = []
    for variant in (FLOAT32, FLOAT16, ONNX_FLOAT32):
        name = f"{OURS}: {variant}"
        alone, together = (times[Shape(chunking, rows)][name].median / rows for rows in (1, batch))
        what = f"{chunking_label(chunking)}, {variant}: time per stream, 1 stream / {batch} streams in a batch"
        found.append(Goal(what, BATCH_GOAL, alone / together))
    return found


def gain_table(times: Mapping[str, Timing], changes: Sequence[Change]) -> str:
    """Return a table of the time after each change, and of the time that it saves in percent of the Conformer's."""
    rows = [
        [change.what, *(f"{CHANGES}: {change_name(index, variant)}" for variant in (FLOAT32, INT8_DYNAMIC))]
        for index, change in enumerate(changes)
    ]
    rows += [
        ["packed kernels, as our export writes them", f"{OURS}: {FLOAT32}", f"{OURS}: {INT8_DYNAMIC}"],
        ["weights packed in float16", f"{OURS}: {FLOAT16}", ""],
        ["int8 with constant scales", "", f"{OURS}: {INT8}"],
    ]
    columns = [_savings([times[name].median if name else None for name in column]) for column in list(zip(*rows))[1:]]
    return markdown_table(
        ["each row adds one change", f"{FLOAT32}, ms", "saves", f"{INT8_DYNAMIC}, ms", "saves"],
        [[row[0], *first, *second] for row, first, second in zip(rows, *columns)],
    )


def _savings(column: Sequence[float | None]) -> list[tuple[str, str]]:
    """Return each time, and its difference from the time above in percent of the first time."""
    cells, above = [], column[0]
    for found in column:
        if found is None:
            cells.append(("", ""))
            continue
        cells.append((f"{found:.2f}", "" if found == column[0] else f"{100 * (above - found) / column[0]:.1f} %"))
        above = found
    return cells
