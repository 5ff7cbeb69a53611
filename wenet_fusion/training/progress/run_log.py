"""Write the numbers of a run as JSON lines, without duplicates after a resume."""

import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from wenet_fusion_runtime.files import append_whole, parse_json, replacing

from wenet_fusion.training.progress.logger_protocol import Sample


class RunLog:
    """Append one JSON object per update and per validation to a file.

    Opening the log drops the lines of steps after `step`, because the run will write them again. It also drops a last
    line that a kill cut off, and all other invalid lines, whose count it prints on standard error.

    Args:
        path: the file, e.g. train_log.jsonl.
        step: the step at which the run starts or resumes.

    >>> import tempfile
    >>> log = RunLog(Path(tempfile.mkdtemp()) / "train_log.jsonl", step=0)
    >>> log.step(1, 0, {"loss": 9.7})
    >>> log.close()
    """

    def __init__(self, path: Path, step: int) -> None:
        *lines, last = path.read_bytes().split(b"\n") if path.exists() else [b""]
        steps = [(_step_of(line), line) for line in [*lines, last] if line.strip()]
        bad = sum(found is None for found, line in steps if line is not last)
        if bad:
            print(f"{path}: dropped {bad} invalid line{'s' * (bad != 1)}", file=sys.stderr)
        with replacing(path) as temporary:
            temporary.write_bytes(
                b"".join(line + b"\n" for found, line in steps if found is not None and found <= step)
            )
        self._file = io.FileIO(path, "a")

    def step(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Write the numbers of one update."""
        self._write("step", step, epoch, values)

    def epoch(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Write the numbers of one validation."""
        self._write("epoch", step, epoch, values)

    def details(self, step: int, values: Mapping[str, float], samples: Sequence[Sample]) -> None:
        """Write nothing: the log holds only a line per update and per validation."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, kind: str, step: int, epoch: int, values: Mapping[str, float]) -> None:
        # JSON has no NaN and no infinity: such values become null.
        rounded = {name: float(f"{value:.6g}") if math.isfinite(value) else None for name, value in values.items()}
        line = json.dumps({"kind": kind, "step": step, "epoch": epoch, **rounded}) + "\n"
        append_whole(self._file, line.encode())


def _step_of(line: bytes) -> int | None:
    """Return the step of an entry; None for a line that is not an entry."""
    try:
        entry = parse_json(line)
    except ValueError:  # not JSON, or not UTF-8
        return None
    step = entry.get("step") if isinstance(entry, dict) else None
    return step if type(step) is int else None
