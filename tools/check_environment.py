"""Check that this Python has the packages of constraints.txt: torch and torchaudio in these versions, others in any.

Print "installed" if the two packages of this clone are installed too, "sources" if only their dependencies are.
Otherwise fail with the reason. Runs on Python 3.8 and later.
"""

import importlib.util
import re
import sys
from importlib import metadata
from pathlib import Path

EXACT = ("torch", "torchaudio")
OPTIONAL = ("kenlm", "wetext")  # packages of extras that env.sh does not install


def problem(root: Path) -> str:
    """Return the first reason why this interpreter is unsuitable, or an empty string if it is suitable."""
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        return f"Python {sys.version_info[0]}.{sys.version_info[1]} is not one of 3.10 to 3.13"
    for line in (root / "constraints.txt").read_text().splitlines():
        if not (match := re.match(r"([\w-]+)==([\w.]+)", line)):
            continue
        name, pinned = match.groups()
        if name in OPTIONAL:
            continue
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            return f"it has no {name}"
        if name in EXACT and version.partition("+")[0] != pinned:
            return f"its {name} is {version}, not {pinned}"
    try:
        import torch  # noqa: F401
        import torchaudio  # noqa: F401
    except (ImportError, OSError) as error:
        return f"torch and torchaudio do not load: {error}"
    return ""


def runs_clone(root: Path) -> bool:
    """Return whether this environment runs both packages and their commands from the clone at `root`."""
    specs = (importlib.util.find_spec(name) for name in ("wenet_fusion", "wenet_fusion_runtime"))
    from_root = all(spec and spec.origin and root in Path(spec.origin).resolve().parents for spec in specs)
    return from_root and all(command_starts(name) for name in ("wenet-fusion", "wenet-fusion-runtime"))


def command_starts(name: str) -> bool:
    """Return whether a command and its function exist. An update of the clone may have moved the function."""
    if not Path(sys.executable).with_name(name).exists():
        return False
    try:
        found = [entry.load() for entry in metadata.entry_points(group="console_scripts") if entry.name == name]
    except (ImportError, AttributeError):
        return False
    return bool(found)


if __name__ == "__main__":
    clone = Path(sys.argv[1]).resolve()
    if reason := problem(clone):
        sys.exit(reason)
    print("installed" if runs_clone(clone) else "sources")
