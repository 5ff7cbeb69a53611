"""Provenance of measurements: commit of the sources, processor, versions of the software."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

__version__ = "0.1.0"


def commit(folder: Path) -> str:
    """Return the commit of the git checkout that holds `folder`.

    It ends in "-dirty" if tracked files differ from the commit, and is "unknown" outside a git checkout.
    """
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def processor_name() -> str:
    """Return the name of the processor; outside Linux, this may be only the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """Return the name of the processor and the number of cores that this process may use."""
    count = cores()
    return f"{processor_name()}, {count} {'core' if count == 1 else 'cores'}"


def software() -> str:
    """Return the versions of Python and torch, and the operating system."""
    return f"Python {platform.python_version()}, torch {version('torch')}, {platform.system()}"
