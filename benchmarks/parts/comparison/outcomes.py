"""The outcome of a run (finished or diverged), determined from its log and kept as a small JSON record."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from parts.comparison.study import Measure, RunSpec
from wenet_fusion_runtime.files import parse_json, read_lines, write_text

from wenet_fusion.config import config_from_mapping

LOG = "train_log.jsonl"
OUTCOME = "outcome.json"
EVALUATION = "errors.json"
MOST_POINTS = 60  # maximum number of points in a loss curve
DIVERGED = "training diverged:"  # start of the message of `wenet-fusion train` if losses stay non-finite


@dataclass(frozen=True)
class Point:
    """A value after `step` updates."""

    step: int
    value: float


@dataclass(frozen=True)
class Gradients:
    """Norms of the gradient after the warm-up, before clipping."""

    median: float
    percentile_99: float
    clipped: float  # share of the updates whose gradient was clipped


@dataclass(frozen=True)
class Course:
    """Loss, dev WER and gradient norms during a training. Values that are not finite are left out.

    >>> Course(dev_wers=(Point(500, 0.2), Point(1000, 0.1))).gradients is None
    True
    """

    losses: tuple[Point, ...] = ()  # means over equal parts of the training, each at its last update
    dev_wers: tuple[Point, ...] = ()
    gradients: Gradients | None = None


@dataclass(frozen=True)
class Outcome:
    """The end of a run.

    >>> Outcome("diverged", "dev loss not finite", 1500).rank("wer") > Outcome("finished").rank("wer")
    True
    """

    status: Literal["finished", "diverged"]
    reason: str = ""  # why the run counts as diverged
    updates: int = 0
    dev_wer: float | None = None  # greedy, largest chunk, after the last update; None: not measured or not finite
    dev_loss: float | None = None
    training_seconds: float = 0.0  # elapsed time of the updates only
    processor_seconds: float = 0.0  # processor time of the training processes, including loading and validation
    commit: str = ""
    machine: str = ""
    course: Course = Course()

    def rank(self, measure: Measure) -> tuple[bool, float, float]:
        """Return a sort key: runs with a lower value of `measure` come first; the other measure decides ties."""
        wer, loss = (float("inf") if value is None else value for value in (self.dev_wer, self.dev_loss))
        return (self.status == "diverged", wer, loss) if measure == "wer" else (self.status == "diverged", loss, wer)


class RunOutcomes(Protocol):
    """Access to the outcomes of the runs that have ended."""

    def outcome(self, run: RunSpec) -> Outcome | None:
        """Return the outcome of a run; None before its end."""

    def is_evaluated(self, run: RunSpec) -> bool:
        """Return whether the test set was decoded with the run's model."""
        ...

    def update_seconds(self, size: str) -> dict[str, float] | None:
        """Return the seconds of an update by folder of the configuration; None before they were measured."""


class RunFolders:
    """The folders of runs, and the records of the runs that have ended. Implements `RunOutcomes`; reads a record once.

    Args:
        folder: folder of checkpoints and logs.
        records: folder of the records, to keep them without the checkpoints; None: `folder`.

    >>> RunFolders(Path("nowhere")).update_seconds("recipe") is None
    True
    """

    def __init__(self, folder: Path, records: Path | None = None) -> None:
        self.folder = folder
        self.records = folder if records is None else records
        self._outcomes: dict[RunSpec, Outcome] = {}
        self._times: dict[str, dict[str, Any]] = {}

    def path(self, run: RunSpec) -> Path:
        """Return the folder of a run."""
        return self.folder / run.folder

    def outcome(self, run: RunSpec) -> Outcome | None:
        """Return the outcome of a run; None before its end. Raises ValueError if its record is damaged."""
        if run in self._outcomes:
            return self._outcomes[run]
        path = self.records / run.folder / OUTCOME
        if not path.exists():
            return None
        try:
            outcome = config_from_mapping(Outcome, parse_json(path.read_text(encoding="utf-8")), str(path))
        except ValueError as error:
            raise ValueError(f"{path}: not the outcome of a run ({error}); delete it: it is made anew") from error
        self._outcomes[run] = outcome
        return outcome

    def is_finished(self, folder: Path) -> bool:
        """Return whether the run in this folder has ended; see `path`."""
        return (self.records / folder.relative_to(self.folder) / OUTCOME).exists()

    def write_outcome(self, run: RunSpec, outcome: Outcome) -> None:
        """Write the record that marks a run as ended."""
        self._write(run, OUTCOME, json.dumps(asdict(outcome)) + "\n")

    def evaluation_path(self, run: RunSpec) -> Path:
        """Return the path of the record of a run's errors on the test set."""
        return self.records / run.folder / EVALUATION

    def write_evaluation(self, run: RunSpec, text: str) -> None:
        """Write the record of a run's errors on the test set."""
        self._write(run, EVALUATION, text)

    def is_evaluated(self, run: RunSpec) -> bool:
        """Return whether the test set was decoded with the run's model."""
        return self.evaluation_path(run).exists()

    def _write(self, run: RunSpec, name: str, text: str) -> None:
        folder = self.records / run.folder
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / name, text)

    def times_path(self, size: str) -> Path:
        """Return the file of the measured times of a size."""
        return self.records / size / "times.json"

    def times(self, size: str) -> dict[str, Any] | None:
        """Return the record of `comparison_times.measure_times`; None before it is written."""
        path = self.times_path(size)
        if size not in self._times and path.exists():
            self._times[size] = parse_json(path.read_text(encoding="utf-8"))
        return self._times.get(size)

    def update_seconds(self, size: str) -> dict[str, float] | None:
        """Return the seconds of an update by folder of the configuration; None before they were measured."""
        times = self.times(size)
        return None if times is None else {name: found["median"] / 1000 for name, found in times["updates"].items()}


class LogLines:
    """The lines of a training log, by kind.

    >>> LogLines(['{"kind": "epoch", "step": 2, "dev_wer": null}']).epochs
    [{'step': 2, 'dev_wer': None}]
    """

    def __init__(self, lines: Sequence[str]) -> None:
        self.steps: list[dict[str, Any]] = []
        self.epochs: list[dict[str, Any]] = []
        for line in lines:
            entry = parse_json(line)
            (self.steps if entry.pop("kind") == "step" else self.epochs).append(entry)


def read_run_log(folder: Path) -> LogLines:
    """Read the log of a run, which is empty before the first update."""
    path = folder / LOG
    return LogLines(read_lines(path) if path.exists() else [])


def judge(log: LogLines, updates: int, most_errors: float, last_line: str) -> Outcome:
    """Determine the outcome of a run from the log of its training; divergence is an outcome too.

    Args:
        log: log of the run.
        updates: planned number of updates.
        most_errors: error rate on dev above which the run counts as diverged.
        last_line: last line of the training's output.

    Raises:
        ValueError: the run ended early for another reason than divergence.
    """
    done = log.steps[-1]["step"] if log.steps else 0
    seconds = sum(step["seconds"] for step in log.steps)
    last = log.epochs[-1] if log.epochs else {}
    wer, loss = last.get("dev_wer"), last.get("dev_loss")
    found = Outcome("finished", "", done, wer, loss, training_seconds=round(seconds, 1))
    if DIVERGED in last_line:
        return _diverged(found, f"loss or gradient not finite from update {done - 9} on")
    if done < updates:
        raise ValueError(f"ended after {done} of {updates} updates: {last_line or 'no message'}")
    if wer is None or loss is None:
        return _diverged(found, "dev loss not finite")
    return _diverged(found, f"dev WER {100 * wer:.1f} %") if wer > most_errors else found


def _diverged(found: Outcome, reason: str) -> Outcome:
    return Outcome(**{**asdict(found), "status": "diverged", "reason": reason})


def course_of(log: LogLines, warmup: int, clip_norm: float) -> Course:
    """Return losses, dev WER and gradient norms over a training.

    Args:
        log: log of the run.
        warmup: number of updates at the beginning whose gradients do not count.
        clip_norm: norm to which gradients were clipped; 0: no clipping.
    """
    shares = np.array_split(np.arange(len(log.steps)), min(MOST_POINTS, max(len(log.steps), 1)))
    losses = []
    for share in shares:
        found = [log.steps[index]["loss"] for index in share if log.steps[index]["loss"] is not None]
        if found:
            losses.append(Point(log.steps[share[-1]]["step"], round(float(np.mean(found)), 4)))
    dev = [Point(epoch["step"], epoch["dev_wer"]) for epoch in log.epochs if epoch.get("dev_wer") is not None]
    norms = np.array(
        [step["grad_norm"] for step in log.steps if step["step"] > warmup and step["grad_norm"] is not None]
    )
    gradients = None
    if len(norms):
        clipped = float((norms > clip_norm).mean()) if clip_norm else 0.0
        gradients = Gradients(float(np.median(norms)), float(np.quantile(norms, 0.99)), clipped)
    return Course(tuple(losses), tuple(dev), gradients)
