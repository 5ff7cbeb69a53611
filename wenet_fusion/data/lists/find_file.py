"""Find the files that data lists name."""

from __future__ import annotations

from pathlib import Path

from wenet_fusion_runtime.files import printable


def find_file(path: str, folder: Path, kind: str) -> Path:
    """Find a file that a list names relative to the list's folder or, as in WeNet, to the working directory.

    Raises:
        ValueError: the file is in neither folder.
    """
    place = folder / path
    if _is_file(place):
        return place
    if _is_file(Path(path)):
        return Path(path).absolute()
    also = "" if Path(path).absolute() == place.absolute() else f", nor {printable(Path(path).absolute())}"
    raise ValueError(f"there is no {kind} {printable(place)}{also}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # the name is too long, or holds a NUL character
        return False
