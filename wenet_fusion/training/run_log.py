"""Write the numbers of a run as JSON lines, without double entries after a resume."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from wenet_fusion_runtime.files import write_text


class RunLog:
    """Append one JSON object per update and per validation to a file.

    Lines of steps after `step` are dropped when the log is opened: the run will write them again.

    Args:
        path: the file, e.g. train_log.jsonl.
        step: the step at which the run starts or resumes.

    >>> import tempfile
    >>> log = RunLog(Path(tempfile.mkdtemp()) / "train_log.jsonl", step=0)
    >>> log.step(1, 0, {"loss": 9.7})
    >>> log.close()
    """

    def __init__(self, path: Path, step: int) -> None:
        kept = []
        if path.exists():
            for line in path.read_text().splitlines(keepends=True):
                try:
                    entry = json.loads(line)
                except json.JSONDecodeError:  # a kill came in the middle of a line
                    continue
                if entry["step"] <= step:
                    kept.append(line)
        write_text(path, "".join(kept))
        self._file = path.open("a", buffering=1)

    def step(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Write the numbers of one update."""
        self._write("step", step, epoch, values)

    def epoch(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Write the numbers of one validation."""
        self._write("epoch", step, epoch, values)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, kind: str, step: int, epoch: int, values: Mapping[str, float]) -> None:
        # JSON has no NaN and no infinity: such values become null.
        rounded = {name: float(f"{value:.6g}") if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps({"kind": kind, "step": step, "epoch": epoch, **rounded}) + "\n")
