"""Files that no command expects: one of each kind that a path can name."""

import json
import random
import socket
import zipfile
from pathlib import Path


def write_hostile_files(folder: Path) -> list[Path]:
    """Write the files to an empty folder, and return their paths."""
    (folder / "folder").mkdir()
    (folder / "empty").touch()
    (folder / "binary").write_bytes(random.Random(0).randbytes(3000))
    (folder / "zeros").write_bytes(bytes(3000))
    (folder / "null").write_text("null")
    (folder / "list").write_text("[1, 2]\n")
    (folder / "deep").write_text("[" * 50_000)
    (folder / "deep_objects").write_text('{"a":' * 50_000)
    (folder / "text").write_text("hello world\n")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "entry").write_text(json.dumps({"key": "u", "wav": "a\0b", "txt": "one", "start": 1e308}) + "\n")
    with zipfile.ZipFile(folder / "archive", "w") as archive:
        archive.writestr("meta.json", "[" * 50_000)
        archive.writestr("step.onnx", "x")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
    return sorted(folder.iterdir())
