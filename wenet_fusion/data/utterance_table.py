"""A table of utterances in columns: 281,000 of them take 100 MB, which processes share; as objects they take 200 MB."""

from __future__ import annotations

import itertools
import math
import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar, overload

import numpy as np

from wenet_fusion.data.sources import AudioSource, Utterance

T = TypeVar("T")
_NUMBERS = 5  # per utterance: offset, size, start, end, channel


class _Rows(Sequence[T]):
    """A sequence whose slices are lists."""

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        """Return an item, or the list of the items in a slice."""
        if isinstance(index, slice):
            return [self._item(number) for number in range(*index.indices(len(self)))]
        return self._item(range(len(self))[index])

    def _item(self, number: int) -> T:
        raise NotImplementedError


class StringColumn(_Rows[str]):
    """Strings in one buffer. It preserves bytes that are not UTF-8, which file names may contain.

    >>> column = StringColumn(["one", "", "two"])
    >>> len(column), column[2], list(column)
    (3, 'two', ['one', '', 'two'])
    """

    def __init__(self, strings: Iterable[str] = ()) -> None:
        self._buffer, self._ends = bytearray(), array("q", [0])
        for string in strings:
            self.append(string)

    def append(self, string: str) -> None:
        """Add a string."""
        self._buffer += string.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._buffer))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def _item(self, number: int) -> str:
        return self._buffer[self._ends[number] : self._ends[number + 1]].decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        start, buffer = 0, self._buffer
        for end in itertools.islice(self._ends, 1, None):
            yield buffer[start:end].decode("utf-8", "surrogatepass")
            start = end


class TokenColumn(_Rows[list[int]]):
    """Lists of token ids in one array.

    >>> column = TokenColumn(vocabulary_size=5000)
    >>> column.append([3, 4]); column.append([])
    >>> list(column), column.lengths.tolist()
    ([[3, 4], []], [2, 0])
    """

    def __init__(self, vocabulary_size: int) -> None:
        self._ids, self._ends = array("H" if vocabulary_size <= 1 << 16 else "i"), array("q", [0])

    def append(self, ids: Sequence[int]) -> None:
        """Add a list of ids."""
        # This is twice as fast as array.extend.
        self._ids.frombytes(struct.pack(f"{len(ids)}{self._ids.typecode}", *ids))
        self._ends.append(len(self._ids))

    @property
    def lengths(self) -> np.ndarray:
        """Return the number of ids of each list."""
        return np.diff(np.array(self._ends))

    def printed(self) -> Iterator[str]:
        """Yield each list as text, as `str` does but seven times as fast."""
        ids = np.frombuffer(self._ids, self._ids.typecode)
        numbers = np.array([f", {number}" for number in range(int(ids.max(initial=0)) + 1)], dtype=bytes)
        for start, end in zip(self._ends, self._ends[1:]):
            # numpy pads the shorter elements with zero bytes.
            row = numbers.take(ids[start:end]).tobytes().translate(None, b"\0")
            yield f"[{row[2:].decode()}]"

    def __len__(self) -> int:
        return len(self._ends) - 1

    def _item(self, number: int) -> list[int]:
        return self._ids[self._ends[number] : self._ends[number + 1]].tolist()


class UtteranceTable(_Rows[Utterance]):
    """Utterances in columns. Each access builds a new `Utterance`.

    >>> table = UtteranceTable([Utterance("u1", AudioSource("u1.wav"), "one two", seconds=1.3, channel=2)])
    >>> table[0].text, table[0].channel, table.seconds.tolist(), list(table.keys)
    ('one two', 2, [1.3], ['u1'])
    """

    def __init__(self, utterances: Iterable[Utterance] = ()) -> None:
        self.keys, self.texts = StringColumn(), StringColumn()
        self._paths, self._places = StringColumn(), StringColumn()
        self._speakers: dict[int, str] = {}
        self._contents: dict[int, bytes] = {}  # audio in memory
        self._seconds, self._numbers = array("d"), array("d")
        for utterance in utterances:
            self.append(utterance)

    def append(self, utterance: Utterance, place: str = "") -> None:
        """Add an utterance; `place`, unless empty, replaces the utterance's own."""
        if utterance.speaker is not None:
            self._speakers[len(self)] = utterance.speaker
        self.keys.append(utterance.key)
        self.texts.append(utterance.text)
        self._paths.append(utterance.source.path)
        self._places.append(place or utterance.place)
        source = utterance.source
        if source.content is not None:
            self._contents[len(self) - 1] = source.content
        start, end, channel = utterance.start, utterance.end, utterance.channel
        self._numbers.extend(
            (
                source.offset,
                source.size,
                math.nan if start is None else start,
                math.nan if end is None else end,
                math.nan if channel is None else channel,
            )
        )
        self._seconds.append(utterance.seconds)

    @property
    def seconds(self) -> np.ndarray:
        """Return the duration of each utterance; 0.0 where it is unknown."""
        return np.array(self._seconds)

    def set_seconds(self, index: int, seconds: float) -> None:
        """Set the duration of an utterance."""
        self._seconds[index] = seconds

    def extents(self) -> Iterator[str]:
        """Yield duration, start and channel of each utterance, in the form that `list_contents` hashes."""
        starts, channels = self._numbers[2::_NUMBERS], self._numbers[4::_NUMBERS]
        for seconds, start, channel in zip(self._seconds, starts, channels):
            yield f"{seconds:.3f} {_optional(start)} {None if math.isnan(channel) else int(channel)}"

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Utterance]:
        numbers = iter(self._numbers)
        columns = zip(self.keys, self.texts, self._paths, self._places, self._seconds, *[numbers] * _NUMBERS)
        return (self._utterance(row, *values) for row, values in enumerate(columns))

    def _item(self, number: int) -> Utterance:
        key, text, path, place = (column[number] for column in (self.keys, self.texts, self._paths, self._places))
        numbers = self._numbers[number * _NUMBERS : (number + 1) * _NUMBERS]
        return self._utterance(number, key, text, path, place, self._seconds[number], *numbers)

    def _utterance(self, row: int, key: str, text: str, path: str, place: str, *numbers: float) -> Utterance:
        """Return an utterance from the values of the columns, in the order of `__iter__`."""
        seconds, offset, size, start, end, channel = numbers
        return Utterance(
            key,
            AudioSource(path, int(offset), int(size), self._contents.get(row)),
            text,
            seconds,
            _optional(start),
            _optional(end),
            self._speakers.get(row),
            None if math.isnan(channel) else int(channel),
            place,
        )

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)


def _optional(value: float) -> float | None:
    return None if math.isnan(value) else value
