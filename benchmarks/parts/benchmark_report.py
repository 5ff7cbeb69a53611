"""Write the report of a benchmark: where and how it ran, goals beside measurements, as Markdown and JSON."""

import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from wenet_fusion_runtime.files import write_text

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Run:
    """The circumstances that a number depends on."""

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
    load: float  # of the machine at the end: processes that wanted a processor, this one included

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
        commit=_commit(),
        seed=seed,
        processor=_processor(),
        processors=len(_processor_lines()) or 1,
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


def _commit() -> str:
    try:
        head = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", "wenet_fusion", "runtime", "benchmarks")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head} with changes" if changed else head


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _processor_lines() -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]


def _processor() -> str:
    return next(iter(_processor_lines()), platform.processor() or platform.machine())


@dataclass(frozen=True)
class Goal:
    """A ratio that was wanted and the ratio that was measured."""

    what: str
    wanted: float
    found: float
    at_most: bool = False  # else at least

    @property
    def met(self) -> bool:
        return self.found <= self.wanted if self.at_most else self.found >= self.wanted

    def row(self) -> list[str]:
        sign = "at most" if self.at_most else "at least"
        return [self.what, f"{sign} {self.wanted:g}", f"{self.found:.2f}", "met" if self.met else "**missed**"]


def goals_table(goals: Sequence[Goal]) -> str:
    return table(["goal", "wanted", "measured", ""], [goal.row() for goal in goals])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first hold numbers."""
    lines = ["| " + " | ".join(cells) + " |" for cells in [head, *rows]]
    return "\n".join([lines[0], "|" + "---|" + "---:|" * (len(head) - 1), *lines[1:]])


def write_report(folder: Path, name: str, text: str, record: Mapping[str, Any]) -> None:
    """Write NAME.md and NAME.json."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{name}.md", text + "\n")
    write_text(folder / f"{name}.json", json.dumps(record, indent=1, default=asdict) + "\n")
