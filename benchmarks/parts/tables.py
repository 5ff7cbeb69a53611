"""The tables and goals of the encoder benchmark.

All ratios are ratios of medians from one run.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from parts.benchmark_report import Goal
from parts.candidates import (
    CONFORMER,
    FLOAT16,
    FLOAT32,
    INT8,
    INT8_DYNAMIC,
    LINEAR,
    ONNX_FLOAT32,
    OURS,
    STEPS,
    Candidate,
    Step,
    step_name,
)
from parts.forms import Class
from parts.random_models import Shape
from parts.timing import Timing

from wenet_fusion.evaluation.report.markdown import markdown_table
from wenet_fusion.model.chunking import Chunking, chunking_label

Times = Mapping[Shape, Mapping[str, Timing]]  # by shape and name of the candidate
FLOAT_GOALS = {"onnxruntime": (1.45, 2.2), "TorchScript": (2.6, 4.5)}  # at the largest and the smallest chunk
INT8_GOALS = {"": 1.9, " (stretch goal)": 2.2}
LINEAR_GOALS = {"": (1.6, 1.8), " (stretch goal)": (1.35, 1.35)}
BATCH_GOAL = 3.0


class Best(NamedTuple):
    name: str  # name of the form
    milliseconds: float


def best(
    times: Mapping[str, Timing], candidates: Sequence[Candidate], model: str, kind: Class, engine: str = ""
) -> Best:
    """Return the fastest form of a model in a class, on one engine or on any."""
    found = [
        Best(candidate.form.name, times[candidate.name].median)
        for candidate in candidates
        if candidate.model == model and candidate.form.kind == kind and candidate.form.name.startswith(engine)
    ]
    return min(found, key=lambda form: form.milliseconds)


def forms_table(times: Times, candidates: Sequence[Candidate], chunkings: Sequence[Chunking]) -> str:
    """Return a table of milliseconds per step of one stream, with the speed relative to the Conformer's fastest form of
    the same class.
    """
    head = ["one stream, ms per step"]
    for chunking in chunkings:
        head += [chunking_label(chunking), "times faster"]
    rows = []
    for candidate in candidates:
        if candidate.model == STEPS:
            continue
        row = [f"{candidate.model}, {candidate.form.name}"]
        for chunking in chunkings:
            shape = times[Shape(chunking, 1)]
            found = shape[candidate.name].median
            reference = best(shape, candidates, CONFORMER, candidate.form.kind).milliseconds
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
        if candidate.model in (STEPS, LINEAR):
            continue
        cells = [times[shape][candidate.name].median / shape.batch for shape in shapes]
        rows.append([f"{candidate.model}, {candidate.form.name}", *(f"{cell:.2f}" for cell in cells)])
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
        for kind, wanted in INT8_GOALS.items():
            found.append(Goal(what + kind, wanted, theirs.milliseconds / ours.milliseconds))
        whole, linear = (shape[f"{model}: {INT8}"].median for model in (OURS, LINEAR))
        what = f"{label}, {INT8}: whole step / time of its linear layers"
        for kind, limits in LINEAR_GOALS.items():
            found.append(Goal(what + kind, limits[end], whole / linear, at_most=True))
    return found


def batch_goals(times: Times, chunking: Chunking, batch: int) -> list[Goal]:
    """Return the goals for streams in a batch."""
    found = []
    for form in (FLOAT32, FLOAT16, ONNX_FLOAT32):
        name = f"{OURS}: {form}"
        alone, together = (times[Shape(chunking, rows)][name].median / rows for rows in (1, batch))
        what = f"{chunking_label(chunking)}, {form}: cost per stream, 1 stream / {batch} streams in a batch"
        found.append(Goal(what, BATCH_GOAL, alone / together))
    return found


def gain_table(times: Mapping[str, Timing], steps: Sequence[Step]) -> str:
    """Return a table of the time that each change saves, relative to the Conformer's time."""
    rows = [
        [step.what, *(f"{STEPS}: {step_name(index, form)}" for form in (FLOAT32, INT8_DYNAMIC))]
        for index, step in enumerate(steps)
    ]
    rows += [
        ["packed kernels: the form that our export writes", f"{OURS}: {FLOAT32}", f"{OURS}: {INT8_DYNAMIC}"],
        ["weights packed in float16", f"{OURS}: {FLOAT16}", ""],
        ["int8 with constant scales", "", f"{OURS}: {INT8}"],
    ]
    columns = [_savings([times[name].median if name else None for name in column]) for column in list(zip(*rows))[1:]]
    return markdown_table(
        ["each row adds one change", f"{FLOAT32}, ms", "saves", f"{INT8_DYNAMIC}, ms", "saves"],
        [[row[0], *first, *second] for row, first, second in zip(rows, *columns)],
    )


def _savings(column: Sequence[float | None]) -> list[tuple[str, str]]:
    """Return each time, and its difference from the one above in percent of the first."""
    cells, above = [], column[0]
    for found in column:
        if found is None:
            cells.append(("", ""))
            continue
        cells.append((f"{found:.2f}", "" if found == column[0] else f"{100 * (above - found) / column[0]:.1f} %"))
        above = found
    return cells
