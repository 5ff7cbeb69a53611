"""Draw a comparison: training loss and dev WER of one run of each configuration, which is its first compared run or
before that the best run of its grid; and the measure by which the learning rate is chosen, over the learning rate.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parts.comparison.findings import Findings, SizeFindings
from parts.comparison.outcomes import Outcome, Point
from parts.comparison.study import BASELINE, OURS, Measure

sys.path.append(str(Path(__file__).resolve().parents[3] / "tools" / "measure"))  # for the common style of all pictures
from pictures import BLUE, GRID, PALE_BLUE, PALE_INK, RED, YELLOW, load_pyplot

GREEN = "#5f9c6b"
COLOURS = (PALE_INK, YELLOW, RED, GREEN, PALE_BLUE, BLUE)  # in the order of CONFIGURATIONS
HIGHEST, LOWEST = 100.0, 0.3  # percent; error rates beyond these limits are drawn at the limits


def draw(sizes: Sequence[SizeFindings], path: Path) -> None:
    """Draw a row of three panels for each size; see this module's docstring. Raises OSError without matplotlib."""
    plt = load_pyplot()
    figure, axes = plt.subplots(len(sizes), 3, figsize=(14, 4 * len(sizes)), squeeze=False)
    for row, found in zip(axes, sizes):
        for item, colour in zip(found.configurations, COLOURS):
            if item.shown is not None:
                width = 2.4 if item.configuration in (BASELINE, OURS) else 1.2
                _draw_run(row, item, found.choose_by, {"color": colour, "lw": width, "label": item.configuration.name})
        row[0].set(title=f"{found.size}: training loss", xlabel="update", yscale="log")
        row[1].set(title=f"{found.size}: dev WER, %", xlabel="processor minutes", yscale="log")
        titles = {"wer": "dev WER, %, by rate (diverged: 100 %)", "loss": "dev loss by rate, without diverged runs"}
        row[2].set(
            title=f"{found.size}: {titles[found.choose_by]}",
            xlabel="peak learning rate",
            xscale="log",
            yscale="log",
        )
        rates = sorted({run.rate for item in found.configurations for run in item.grid})
        row[2].set_xticks(rates, [f"{rate:g}" for rate in rates])
        row[2].set_xticks([], minor=True)
        for axis in row:
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
            axis.grid(which="major", color=GRID)
    axes[0][2].legend(loc="best", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


def _draw_run(row: Any, item: Findings, choose_by: Measure, look: dict[str, Any]) -> None:
    assert item.shown is not None
    _, outcome = item.shown
    row[0].plot(*_curve(outcome.course.losses), **look)
    minutes = outcome.processor_seconds / max(outcome.updates, 1) / 60
    steps, wers = _curve(outcome.course.dev_wers)
    row[1].plot([step * minutes for step in steps], [_percent(wer) for wer in wers], **look)
    by_rate: dict[float, float] = {}
    for run, ended in item.grid.items():
        value = _chosen_by(ended, choose_by)
        if value is not None:
            by_rate[run.rate] = min(value, by_rate.get(run.rate, value))
    row[2].plot(sorted(by_rate), [by_rate[rate] for rate in sorted(by_rate)], "o-", ms=4, **look)


def _chosen_by(outcome: Outcome, measure: Measure) -> float | None:
    """Return the dev WER in percent, or the dev loss, of a run of the grid; None for the loss of a diverged run."""
    if measure == "loss":
        return None if outcome.status == "diverged" else outcome.dev_loss
    return HIGHEST if outcome.status == "diverged" or outcome.dev_wer is None else _percent(outcome.dev_wer)


def _curve(points: Sequence[Point]) -> tuple[list[int], list[float]]:
    return [point.step for point in points], [point.value for point in points]


def _percent(wer: float) -> float:
    return min(HIGHEST, max(LOWEST, 100 * wer))
