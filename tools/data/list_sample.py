"""Read the utterances of any list that training takes, all or a sample, without a dataset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from wenet_fusion.data.judgement import Skip
from wenet_fusion.data.lists.manifest import ListType, read_table
from wenet_fusion.data.sequential.shard_list import SequentialConfig, read_shards
from wenet_fusion.data.sequential.shards import Shard
from wenet_fusion.data.sources import Utterance

T = TypeVar("T")


class Sample(NamedTuple):
    """Utterances of a list. Those of shards are read while they are iterated over, once."""

    utterances: Iterable[Utterance | Skip]  # a Skip for what cannot be read
    total: int | None  # their number; None if only reading them tells


def sample_utterances(
    data_list: Path,
    data_type: ListType | Literal["auto", "sequential"],
    settings: SequentialConfig = SequentialConfig(),
    count: int = 0,
) -> Sample:
    """Read a list, or an even sample of it.

    Args:
        data_list: raw list, list of shards, lhotse's cuts; or with "sequential" what `read_shards` takes.
        data_type: format of the list, see `read_manifest`.
        settings: reading of shards in sequence.
        count: most utterances. Of shards that are read in sequence these are the first of each shard, or of shards
            spread over the list if there are more shards; 0 for all.

    Raises:
        FileNotFoundError, ValueError: the list is missing or malformed.
    """
    if data_type != "sequential":
        table = read_table(data_list, data_type)
        chosen = even_sample(range(len(table)), count)
        return Sample((table[index] for index in chosen), len(chosen))
    shards = read_shards(data_list, settings)
    return Sample(_first_of_shards(shards, settings.retries, count), None)


def even_sample(items: Sequence[T], count: int) -> Sequence[T]:
    """Return `count` items spread evenly over a sequence, or all if there are fewer or `count` is 0.

    >>> even_sample("abcdefghij", 4)
    ['a', 'c', 'f', 'h']
    """
    if not 0 < count < len(items):
        return items
    return [items[number * len(items) // count] for number in range(count)]


def _first_of_shards(shards: Sequence[Shard], retries: int, count: int) -> Iterator[Utterance | Skip]:
    """Yield the first utterances of each shard. What one shard lacks, the next ones give."""
    chosen, found = even_sample(shards, count), 0
    for number, shard in enumerate(chosen, start=1):
        share = number * count // len(chosen)  # of this shard and of those before it
        try:
            for utterance in shard.read(retries):
                yield utterance
                found += not isinstance(utterance, Skip)
                if count and found >= share:
                    break
        except (OSError, ValueError) as error:
            yield Skip(shard.name, str(error))
