"""Give all ranks a batch in every step, even if some ranks have none left."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from wenet_fusion.data.batch import Batch, Row, pad_rows, split_rows
from wenet_fusion.ranks import Ranks

_FINE = 1 << 16  # larger than any `Position.steps`


class Position(NamedTuple):
    """A position between two steps of an epoch; `even_steps` explains held rows.

    >>> Position.decode(Position(12, 1).encode())
    Position(batches=12, steps=1)
    """

    batches: int  # batches of all ranks before the last point at which no rows were held
    steps: int = 0  # steps since that point; almost always 0

    def encode(self) -> int:
        """Return the position as the integer that a training state keeps."""
        return self.batches * _FINE + self.steps

    @staticmethod
    def decode(number: int) -> Position:
        """Return the position that `encode` converted to an integer."""
        return Position(*divmod(number, _FINE))


def even_steps(
    batches: Iterator[Batch], start: Position, ranks: Ranks, right_padding: int
) -> Iterator[tuple[Batch, Position]]:
    """Yield the batches of a rank and the position after each; all ranks get the same number of batches.

    While every rank has a batch, each takes its own. If some have none (an ended lane, audio that cannot be decoded),
    the ranks exchange their rows and divide the larger batches. If there are fewer rows than ranks, the rows are held
    until more arrive; at the end of the epoch they are left out.

    Args:
        batches: batches of this rank from `start.batches` on; a batch may have no rows.
        start: position to start at.
        ranks: this process and the others; every rank must call this function.
        right_padding: zeros at the end of every row, see `pad_rows`.
    """
    base, turn, steps = start.batches, start.batches, 0
    held: list[list[Row]] = []  # held rows; the same in all ranks
    while True:
        batch = next(batches, None)
        counts = ranks.all(-1 if batch is None else len(batch.keys))
        if max(counts) < 0:
            return
        turn += ranks.world
        if batch is not None and min(counts) > 0 and not held:
            base = turn
            yield batch, Position(turn)
            continue
        own = split_rows(batch, right_padding) if batch is not None else []
        held += [rows for rows in ranks.all(own) if rows]
        while sum(map(len, held)) >= ranks.world:
            parts, held = _take(held, ranks.world)
            steps += 1
            position = Position(base, steps) if held else Position(turn)
            if base == start.batches and 0 < steps <= start.steps:
                continue  # this step was made before the run was resumed
            yield pad_rows(parts[ranks.rank], right_padding), position
        if not held:
            base, steps = turn, 0


def _take(held: list[list[Row]], count: int) -> tuple[list[list[Row]], list[list[Row]]]:
    """Return `count` parts, none larger than a batch, and the remaining rows."""
    parts = held[:count]
    while len(parts) < count:
        parts.sort(key=len)
        largest = parts.pop()
        parts += [largest[::2], largest[1::2]]
    return parts, held[count:]
