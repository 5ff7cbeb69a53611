"""Read all utterances of a training list of any type, or a sample of them."""

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
    """Utterances of a list, which can be iterated only once: those in shards are read during the iteration."""

    utterances: Iterable[Utterance | Skip]  # a Skip stands for an utterance that cannot be read
    total: int | None  # number of utterances; None if it is known only at the end


def sample_utterances(
    data_list: Path,
    data_type: ListType | Literal["auto", "sequential"],
    settings: SequentialConfig = SequentialConfig(),
    count: int = 0,
) -> Sample:
    """Read a list, or a sample that is spread evenly over it.

    Args:
        data_list: raw list, list of shards, or lhotse's cuts; with "sequential", a list for `read_shards`.
        data_type: format of the list; see `read_manifest`.
        settings: settings for reading shards in sequence.
        count: largest number of utterances; 0: all. If shards are read in sequence, the sample has the first utterances
            of each shard. If there are more than `count` shards, only `count` of them, spread over the list, are read.

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
    """Yield the first utterances of each shard; if a shard has too few of them, yield more from the next shards."""
    chosen, found = even_sample(shards, count), 0
    for number, shard in enumerate(chosen, start=1):
        share = number * count // len(chosen)  # utterances to yield from the shards up to this one
        try:
            for utterance in shard.read(retries):
                yield utterance
                found += not isinstance(utterance, Skip)
                if count and found >= share:
                    break
        except (OSError, ValueError) as error:
            yield Skip(shard.name, str(error))
