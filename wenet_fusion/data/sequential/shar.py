"""Read lhotse's Shar: folders of cuts.NNNNNN.jsonl.gz and recording.NNNNNN.tar."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from wenet_fusion_runtime.files import printable

from wenet_fusion.data.judgement import Skip
from wenet_fusion.data.lists.lhotse_cuts import load_lhotse, utterances_of_cut
from wenet_fusion.data.sources import Utterance


class SharShard(NamedTuple):
    """One numbered pair of cuts and recordings."""

    name: str  # path of the cuts
    recordings: str  # path of the tar

    def read(self, retries: int) -> Iterator[Utterance | Skip]:
        """See `Shard`."""
        lhotse = load_lhotse(self.name)
        cuts = lhotse.CutSet.from_shar(fields={"cuts": [self.name], "recording": [self.recordings]})
        number, iterator = 0, iter(cuts)
        while True:
            try:
                cut = next(iterator)
            except StopIteration:
                return
            except Exception as error:  # lhotse raises AssertionError and the errors of its readers
                raise ValueError(f"{self.name}: damaged after its first {number} cuts ({error!r})") from error
            number += 1
            yield from utterances_of_cut(cut, printable(self.name))


def shar_shards(folder: Path) -> Iterator[SharShard]:
    """Yield the shards of a folder in their order.

    Raises:
        ValueError: the folder holds no cuts, or cuts without recordings.
        ImportError: lhotse is not installed.
    """
    load_lhotse(str(folder))
    cuts = sorted(folder.glob("cuts.*.jsonl*"))
    if not cuts:
        raise ValueError(f"{folder}: is a folder without cuts.000000.jsonl.gz; give a list of shards, or lhotse's Shar")
    for path in cuts:
        number = path.name.split(".")[1]
        with contextlib.suppress(StopIteration):
            yield SharShard(str(path), str(next(folder.glob(f"recording.{number}.tar*"))))
            continue
        raise ValueError(f"{path}: has no recording.{number}.tar beside it")
