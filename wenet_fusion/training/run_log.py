"""The run's numbers as JSON lines, for plots and summaries; survives a resume without double entries."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from wenet_fusion_runtime.files import write_text


class RunLog:
    """Appends to `path`. Lines of steps after `step` belong to a future that a kill has undone; they are dropped."""

    def __init__(self, path: Path, step: int):
        kept = []
        if path.exists():
            for line in path.read_text().splitlines(keepends=True):
                try:
                    entry = json.loads(line)
                except json.JSONDecodeError:  # the kill came in the middle of a line
                    continue
                if entry["step"] <= step:
                    kept.append(line)
        write_text(path, "".join(kept))
        self._file = path.open("a", buffering=1)

    def step(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        self._write("step", step, epoch, values)

    def epoch(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        self._write("epoch", step, epoch, values)

    def close(self) -> None:
        self._file.close()

    def _write(self, kind: str, step: int, epoch: int, values: Mapping[str, float]) -> None:
        # JSON knows no NaN: what is not a number is null.
        rounded = {name: float(f"{value:.6g}") if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps({"kind": kind, "step": step, "epoch": epoch, **rounded}) + "\n")
