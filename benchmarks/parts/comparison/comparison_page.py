"""Write the results page of a comparison, its numbers as JSON, and the table that docs/comparison.md quotes."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from parts.benchmark_report import this_run, write_report
from parts.comparison.comparison_tables import (
    error_tables,
    grid_table,
    headline_condition,
    headline_table,
    step_table,
    training_table,
)
from parts.comparison.findings import Compared, Findings, SizeFindings
from parts.comparison.seed_intervals import seed_interval
from parts.comparison.study import Study, choosing_updates
from wenet_fusion_runtime.files import write_text

EXPLAINED = (
    "[The paper's comparison](../../docs/comparison.md) explains the columns of the first table. The size `recipe` is "
    "the size of the recipe's model."
)


def headline(name: str, sizes: list[SizeFindings], study: Study, progress: str) -> str:
    """Return the text that docs/comparison.md quotes: the progress of the comparison, and a table for each size."""
    mode, chunking = headline_condition(study)
    parts = [f"{progress[0].upper()}{progress[1:]}. WER: word error rate on the test set with {mode} at {chunking}."]
    for found in sizes:
        parts += [f"**{name}, {found.size}** ({found.updates} updates):", headline_table(found, study)]
    return "\n\n".join(parts)


def write_page(name: str, sizes: list[SizeFindings], study: Study, progress: str, output: Path, load: float) -> str:
    """Write comparison_NAME.md and comparison_NAME.json to a folder, and return the headline."""
    run, top = this_run(study.choosing_seed, load), headline(name, sizes, study, progress)
    parts = [f"# The paper's comparison: {name}", "\n".join(run.lines()), EXPLAINED, top]
    outcomes = [outcome for found in sizes for item in found.configurations for outcome in item.grid.values()]
    commits, machines = (sorted({getattr(item, field) for item in outcomes}) for field in ("commit", "machine"))
    if outcomes:
        parts.append(f"Trained on {'; '.join(machines)}, commit {', '.join(commits)}, one thread each.")
    for found in sizes:
        parts += [
            f"## {found.size}: choice of learning rate and warm-up, {choosing_updates(study, found.size)} updates each",
            grid_table(found),
            f"## {found.size}: test errors at equal updates",
            error_tables(found, at_equal_time=False),
            f"## {found.size}: test errors at equal processor time",
            error_tables(found, at_equal_time=True),
            f"## {found.size}: training",
            training_table(found),
            f"## {found.size}: time of a streaming step and of an update",
            step_table(found),
        ]
    record = {"run": run, "progress": progress, "sizes": {found.size: _record(found) for found in sizes}}
    write_report(output, f"comparison_{name}", "\n\n".join(parts), record)
    return top


def _record(found: SizeFindings) -> dict[str, Any]:
    items = {item.configuration.folder: _configuration(item) for item in found.configurations}
    return {"updates": found.updates, "times": found.times, "configurations": items}


def _configuration(item: Findings) -> dict[str, Any]:
    choice = item.grid_state.choice
    return {
        "name": item.configuration.name,
        "settings": item.configuration.settings,
        "choice": None if choice is None else {"rate": choice.rate, "warmup": choice.warmup, "at_edge": choice.at_edge},
        "grid": [{"rate": run.rate, "warmup": run.warmup, **asdict(outcome)} for run, outcome in item.grid.items()],
        "equal_updates": _compared(item.equal_updates),
        "equal_time": _compared(item.equal_time),
    }


def _compared(compared: Compared | None) -> dict[str, Any] | None:
    if compared is None:
        return None
    rates = {}
    for (mode, chunking), errors in compared.errors.items():
        rate = seed_interval(errors)
        rates[f"{mode} {chunking}"] = {"wer": rate.mean, "interval": rate.interval, "seeds": rate.seeds}
    return {"updates": compared.updates, "diverged": compared.diverged, "rates": rates}


def quote(page: Path, name: str, text: str) -> None:
    """Replace the quoted text in a document, between <!-- comparison_NAME --> and <!-- end -->.

    Raises:
        ValueError: the document lacks these comments.
    """
    written = page.read_text(encoding="utf-8")
    place = re.compile(rf"(<!-- comparison_{re.escape(name)} -->\n)(?:.*?\n)?(<!-- end -->)", re.DOTALL)
    if not place.search(written):
        raise ValueError(f"{page}: no place for the table: add lines <!-- comparison_{name} --> and <!-- end -->")
    write_text(page, place.sub(lambda match: f"{match[1]}{text}\n{match[2]}", written))
