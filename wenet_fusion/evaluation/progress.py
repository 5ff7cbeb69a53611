"""Keeps what was decoded until the evaluation is complete, so that one that was killed goes on. Knows no scores."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from wenet_fusion_runtime.files import read_lines, write_text

from wenet_fusion.evaluation.decode_list import Decoded, DecodedBatch

_FOLDER = "unfinished"


class Progress:
    """Batches in files of JSON lines, one for each rank. What was decoded under another `identity` is thrown away.

    Args:
        result_dir: of the evaluation; gets a folder for the time being.
        identity: of everything that the batches and their tokens depend on.
    """

    def __init__(self, result_dir: Path, identity: str) -> None:
        self._folder = result_dir / _FOLDER
        self._identity = identity

    def resume(self) -> list[DecodedBatch]:
        """What earlier runs have decoded, by the number of the batch. For one rank, before any of them appends."""
        found = {batch.number: batch for path in sorted(self._folder.glob("*.jsonl")) for batch in self._read(path)}
        shutil.rmtree(self._folder, ignore_errors=True)
        batches = [found[number] for number in sorted(found)]
        self._folder.mkdir(parents=True, exist_ok=True)
        write_text(self._folder / "earlier.jsonl", "".join([self._header(), *map(_line, batches)]))
        return batches

    def keep(self, rank: int, batch: DecodedBatch) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)  # on a rank with a disk of its own
        with (self._folder / f"rank{rank}.jsonl").open("a", encoding="utf-8") as file:
            if not file.tell():
                file.write(self._header())
            file.write(_line(batch))

    def finish(self) -> None:
        """Forgets all: the results are written. For one rank."""
        shutil.rmtree(self._folder)

    def _header(self) -> str:
        return json.dumps({"identity": self._identity}) + "\n"

    def _read(self, path: Path) -> Iterator[DecodedBatch]:
        """The last line may have been cut by a kill."""
        header, *lines = read_lines(path) or [""]
        if header + "\n" != self._header():
            return
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                return
            yield DecodedBatch(**{**record, "decoded": [Decoded(**item) for item in record["decoded"]]})


def _line(batch: DecodedBatch) -> str:
    record = batch._replace(decoded=[item._asdict() for item in batch.decoded])._asdict()
    return json.dumps(record, ensure_ascii=False) + "\n"
