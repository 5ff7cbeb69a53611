"""Write the report of a benchmark as Markdown and JSON: command, machine, versions, goals and measurements."""

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from wenet_fusion_runtime.files import write_text

from wenet_fusion.evaluation.report.markdown import markdown_table
from wenet_fusion.provenance import commit, processor_name

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Run:
    """The circumstances of a measurement."""

    command: str
    date: str
    commit: str
    seed: int
    processor: str
    processors: int
    threads: int
    python: str
    torch: str
    onnxruntime: str
    load: float  # load average of the machine at the end; it includes this process

    def lines(self) -> list[str]:
        return [
            f"    {self.command}",
            "",
            f"{self.date}, commit {self.commit}, seed {self.seed}; {self.processor} ({self.processors} virtual cores), "
            f"{self.threads} thread, Python {self.python}, torch {self.torch}, onnxruntime {self.onnxruntime}; "
            f"load of the machine at the end: {self.load:.1f}.",
        ]


def this_run(seed: int, load: float) -> Run:
    return Run(
        command=f"OMP_NUM_THREADS=1 python {shlex.join([relative(sys.argv[0]), *sys.argv[1:]])}",
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        commit=commit(ROOT),
        seed=seed,
        processor=processor_name(),
        processors=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        torch=torch.__version__,
        onnxruntime=onnxruntime.__version__,
        load=load,
    )


def relative(path: str | Path) -> str:
    """Return a path relative to the root of the repository."""
    full = Path(path).resolve()
    return str(full.relative_to(ROOT)) if full.is_relative_to(ROOT) else str(path)


@dataclass(frozen=True)
class Goal:
    """A goal for a value, and the measured value."""

    what: str
    wanted: float
    found: float
    at_most: bool = False  # True: `wanted` is an upper limit; False: a lower limit

    @property
    def met(self) -> bool:
        return self.found <= self.wanted if self.at_most else self.found >= self.wanted

    def row(self) -> list[str]:
        sign = "at most" if self.at_most else "at least"
        digits = 2
        while digits < 6 and self.found != self.wanted and float(f"{self.found:.{digits}f}") == self.wanted:
            digits += 1  # otherwise the rounded value would equal the goal
        return [self.what, f"{sign} {self.wanted:g}", f"{self.found:.{digits}f}", "met" if self.met else "**missed**"]


def goals_table(goals: Sequence[Goal]) -> str:
    return markdown_table(["goal", "wanted", "measured", ""], [goal.row() for goal in goals])


def write_report(folder: Path, name: str, text: str, record: Mapping[str, Any]) -> None:
    """Write NAME.md and NAME.json."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{name}.md", text + "\n")
    write_text(folder / f"{name}.json", json.dumps(record, indent=1, default=asdict) + "\n")
