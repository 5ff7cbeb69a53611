"""Plant known bugs one at a time in a copy of the repository, run the tests that must catch them, and list survivors.

    python tests/support/repository/plant_bugs.py --jobs 2               # every bug: several hours on two idle cores
    python tests/support/repository/plant_bugs.py --only training        # the bugs whose file or name contains a word
    python tests/support/repository/plant_bugs.py --sample 40 --jobs 2   # 40 bugs spread over the whole list

The bugs are in planted_bugs.yaml beside this file. The exit status is 1 if a bug survives or cannot be planted.
"""

import argparse
import concurrent.futures
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[3]
BUGS = Path(__file__).with_name("planted_bugs.yaml")
LEFT_BEHIND = (".git", ".venv", "__pycache__", ".*_cache", ".hypothesis", "*.egg-info", "exp")


@dataclass(frozen=True)
class Bug:
    """A change of the sources that the named tests must catch."""

    name: str
    file: str  # relative to the root of the repository
    find: str  # occurs in the file exactly once
    replace: str
    tests: str  # arguments of pytest


def read_bugs(path: Path = BUGS) -> list[Bug]:
    """Read the list of bugs."""
    return [Bug(**record) for record in yaml.safe_load(path.read_text(encoding="utf-8"))]


def plant(bug: Bug, tree: Path) -> str:
    """Plant a bug in a copy of the repository, run its tests and remove it. Return the outcome."""
    path = tree / bug.file
    source = path.read_text(encoding="utf-8")
    if source.count(bug.find) != 1:
        return "NOT PLANTED"
    path.write_text(source.replace(bug.find, bug.replace), encoding="utf-8")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(tree), str(tree / "runtime"))),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    options = ["-q", "-x", "-m", "not slow", "-p", "no:cacheprovider", "--timeout", "180"]
    command = [sys.executable, "-m", "pytest", *options, *shlex.split(bug.tests)]
    try:
        status = subprocess.run(command, cwd=tree, env=environment, capture_output=True).returncode
    finally:
        path.write_text(source, encoding="utf-8")
    return {0: "SURVIVED", 1: "caught"}.get(status, f"pytest failed with status {status}")


def copy_tree(folder: Path) -> Path:
    """Copy the repository into `folder`."""
    tree = folder / "tree"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*LEFT_BEHIND), symlinks=True)
    return tree


def work(bugs: Sequence[Bug]) -> list[tuple[Bug, str]]:
    """Plant several bugs one after the other in a copy of their own."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        tree = copy_tree(Path(folder))
        for bug in bugs:
            start = time.monotonic()
            outcome = plant(bug, tree)
            found.append((bug, outcome))
            print(f"{outcome:12} {time.monotonic() - start:5.0f} s  {bug.file}: {bug.name}", flush=True)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="plant the bugs whose file or name contains this")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="plant N bugs spread over the list")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="bugs to plant at the same time")
    args = parser.parse_args(arguments)
    bugs = [bug for bug in read_bugs() if args.only in bug.name or args.only in bug.file]
    if args.sample and args.sample < len(bugs):
        bugs = [bugs[index * len(bugs) // args.sample] for index in range(args.sample)]
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        found = [
            pair for part in pool.map(work, [bugs[index :: args.jobs] for index in range(args.jobs)]) for pair in part
        ]
    bad = [(bug, outcome) for bug, outcome in found if outcome != "caught"]
    print(f"\n{len(found) - len(bad)} of {len(found)} bugs were caught")
    for bug, outcome in bad:
        print(f"{outcome}: {bug.file}: {bug.name}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
