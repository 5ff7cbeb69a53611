"""Check keys of utterances, and make keys from paths."""

import posixpath
from pathlib import Path, PurePosixPath

from wenet_fusion_runtime.files import printable


def key_problem(key: str) -> str:
    """Return what is wrong with the key of an utterance; empty if it is valid.

    >>> key_problem("a/b"), key_problem("a b")
    ('', "key 'a b' must be one word")
    """
    if len(key.split()) != 1:
        return f"key {key!r} must be one word"
    if not key.isprintable() and printable(key) != key:
        return f"key {key!r} holds control characters; take them out"
    if ".." in key.split("/") or key.startswith("/"):
        return f"key {key!r} would put a file of that name outside its folder; take out '..' and the leading '/'"
    return ""


def key_of_path(wav: str, folder: Path) -> str:
    """Make a key from a path without its suffix: relative to the list's folder, or else without leading / and `..`."""
    path = PurePosixPath(posixpath.normpath(wav))
    root = PurePosixPath(posixpath.abspath(folder))
    if path.is_relative_to(root):
        path = path.relative_to(root)
    parts = [part for part in path.parts if part not in ("/", "//", "..")]
    return "_".join(printable("/".join([*parts[:-1], PurePosixPath(*parts[-1:]).stem])).split())
