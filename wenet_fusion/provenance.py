"""Where a number comes from: the commit of the sources, the machine, the versions. Knows no number."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

__version__ = "0.1.0"


def commit(folder: Path) -> str:
    """The commit of the sources in `folder`, and whether they differ from it; "unknown" outside a git checkout."""
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def processor() -> str:
    """Its name where Linux tells it, and the number of cores that this process may use."""
    names = [platform.processor() or platform.machine()]
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")] or names
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{names[0]}, {cores} {'core' if cores == 1 else 'cores'}"


def software() -> str:
    """What the programs ran on."""
    return f"Python {platform.python_version()}, torch {version('torch')}, {platform.system()}"
