"""Store decoded batches until the evaluation is complete, so that an interrupted evaluation resumes."""

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wenet_fusion_runtime.files import append_whole, parse_json, read_lines, write_text

from wenet_fusion.evaluation.decode_list import Decoded, DecodedBatch

_FOLDER = "unfinished"


class StoredBatches:
    """Decoded batches in files of JSON lines, one file for each rank.

    Batches that were decoded under another fingerprint are discarded.

    Args:
        result_dir: folder of the evaluation; a subfolder holds the files until the evaluation is complete.
        fingerprint: digest of everything that the decoded tokens depend on, the weights included.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> stored = StoredBatches(Path(folder.name), "weights A")
    >>> stored.keep(0, DecodedBatch(7, ["u"], {}, 1.0, []))
    >>> [batch.number for batch in stored.resume()], StoredBatches(Path(folder.name), "weights B").resume()
    ([7], [])
    """

    def __init__(self, result_dir: Path, fingerprint: str) -> None:
        self._folder = result_dir / _FOLDER
        self._fingerprint = fingerprint

    def resume(self) -> list[DecodedBatch]:
        """Return the batches that earlier runs decoded, in order of their numbers.

        Only one rank calls this, before any rank keeps a batch.
        """
        found = {batch.number: batch for path in sorted(self._folder.glob("*.jsonl")) for batch in self._read(path)}
        batches = [found[number] for number in sorted(found)]
        self._folder.mkdir(parents=True, exist_ok=True)
        earlier = self._folder / "earlier.jsonl"
        write_text(earlier, "".join([self._header(), *map(_line, batches)]))
        for path in self._folder.glob("*.jsonl"):  # delete only now: the write above fails if the disk is full
            if path != earlier:
                path.unlink()
        return batches

    def keep(self, rank: int, batch: DecodedBatch) -> None:
        """Append a batch to the rank's file."""
        self._folder.mkdir(parents=True, exist_ok=True)  # a rank may have its own disk
        with io.FileIO(self._folder / f"rank{rank}.jsonl", "a") as file:
            header = "" if file.tell() else self._header()
            append_whole(file, f"{header}{_line(batch)}".encode())

    def finish(self) -> None:
        """Delete the files after the results are written; only one rank calls this."""
        shutil.rmtree(self._folder)

    def _header(self) -> str:
        return json.dumps({"fingerprint": self._fingerprint}) + "\n"

    def _read(self, path: Path) -> Iterator[DecodedBatch]:
        """Yield the batches of a file; an interruption may have cut off its last line."""
        header, *lines = read_lines(path) or [""]
        if header + "\n" != self._header():
            return
        for line in lines:
            try:
                record: dict[str, Any] = parse_json(line)
                decoded = [Decoded(**item) for item in record.pop("decoded")]
                batch = DecodedBatch(**record, decoded=decoded)
            except (ValueError, TypeError, KeyError, AttributeError):
                return
            yield batch


def _line(batch: DecodedBatch) -> str:
    record = {**batch._asdict(), "decoded": [item._asdict() for item in batch.decoded]}
    return json.dumps(record, ensure_ascii=False) + "\n"
