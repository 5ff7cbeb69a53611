"""Error rates over several trainings, with intervals that cover seeds and utterances.

Shapes: S seeds, U utterances, R resamples.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from wenet_fusion_runtime.files import parse_json, read_lines

from wenet_fusion.config import config_from_mapping
from wenet_fusion.scoring.error_rate import LEVEL, Interval

RESAMPLES = 1000
Condition = tuple[str, str]  # mode, chunking


class Rate(NamedTuple):
    """A mean error rate over seeds with its interval, as fractions."""

    mean: float
    interval: Interval
    seeds: int

    def text(self) -> str:
        """Return the rate and its interval in percent, as text."""
        return f"{100 * self.mean:.2f} ({100 * self.interval.low:.2f}–{100 * self.interval.high:.2f})"


class Errors(NamedTuple):
    """Errors of S trainings on the same U utterances."""

    errors_SU: np.ndarray
    words_U: np.ndarray

    @property
    def mean(self) -> float:
        """The mean error rate."""
        return float(self.errors_SU.sum() / (len(self.errors_SU) * max(self.words_U.sum(), 1)))


@dataclass(frozen=True)
class ConditionErrors:
    """Errors of one condition in every utterance, in the order of `Evaluation.keys`."""

    mode: str
    chunking: str
    errors: tuple[int, ...]


@dataclass(frozen=True)
class Evaluation:
    """Errors of one training on every utterance of a test set.

    >>> Evaluation(("u1",), (5,), (ConditionErrors("attention", "full", (2,)),)).words
    (5,)
    """

    keys: tuple[str, ...]
    words: tuple[int, ...]
    conditions: tuple[ConditionErrors, ...]


def evaluation_record(result_dir: Path) -> str:
    """Return a short record of the errors that `wenet-fusion evaluate` wrote to a folder."""
    words: dict[str, int] = {}
    found: dict[Condition, dict[str, int]] = {}
    for line in map(parse_json, read_lines(result_dir / "utterances.jsonl")):
        words[line["key"]] = line["words"]
        found.setdefault((line["mode"], line["chunking"]), {})[line["key"]] = line["errors"]
    conditions = tuple(
        ConditionErrors(mode, chunking, tuple(errors[key] for key in words))
        for (mode, chunking), errors in found.items()
    )
    return json.dumps(asdict(Evaluation(tuple(words), tuple(words.values()), conditions))) + "\n"


def read_errors(records: Sequence[Path]) -> dict[Condition, Errors]:
    """Read the errors of each utterance from the records of several trainings.

    Raises:
        ValueError: the trainings decoded different utterances, or a record is damaged.
    """
    read = []
    for path in records:
        try:
            read.append(config_from_mapping(Evaluation, parse_json(path.read_text(encoding="utf-8")), str(path)))
        except ValueError as error:
            raise ValueError(f"{path}: not the errors of a test set ({error}); delete it: it is made anew") from error
    first = read[0]
    asked = {(item.mode, item.chunking) for item in first.conditions}
    result: dict[Condition, list[list[int]]] = {}
    for path, other in zip(records, read):
        by_condition = {(item.mode, item.chunking): item.errors for item in other.conditions}
        if dict(zip(other.keys, other.words)) != dict(zip(first.keys, first.words)) or by_condition.keys() != asked:
            raise ValueError(f"{records[0]} and {path} hold different test sets: evaluate them on the same one")
        places = {key: place for place, key in enumerate(other.keys)}
        for condition, errors in by_condition.items():
            result.setdefault(condition, []).append([errors[places[key]] for key in first.keys])
    words_U = np.array(first.words)
    return {condition: Errors(np.array(errors_SU), words_U) for condition, errors_SU in result.items()}


def seed_interval(found: Errors, seed: int = 0) -> Rate:
    """Return the mean error rate with its bootstrap interval: seeds and utterances are drawn with replacement.

    With two or three seeds the interval is too narrow: so few values underestimate the spread over seeds.
    Source: Bisani and Ney 2004; resampling on both levels as in Davison and Hinkley 1997.
    """
    rates = _drawn_rates(found, np.random.default_rng(seed))
    low, high = np.quantile(rates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Rate(found.mean, Interval(float(low), float(high)), len(found.errors_SU))


def relative_difference(ours: Errors, baseline: Errors, seed: int = 0) -> Rate:
    """Return the relative difference of our error rate from the baseline's.

    A resample draws the same utterances for both, but draws the seeds of each independently.
    """
    mine = _drawn_rates(ours, np.random.default_rng(seed))
    theirs = _drawn_rates(baseline, np.random.default_rng(seed), seeds_from=np.random.default_rng(seed + 1))
    low, high = np.quantile(_ratio(mine, theirs), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest")
    mean = float(_ratio(np.array(ours.mean), np.array(baseline.mean)))
    return Rate(mean, Interval(float(low), float(high)), len(ours.errors_SU))


def _ratio(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Return mine / theirs - 1; 0 if neither has an error, infinity if only `mine` has errors."""
    without = np.where(mine > 0, np.inf, 0.0)
    return np.where(theirs > 0, mine / np.maximum(theirs, 1e-12) - 1, without)


def _drawn_rates(found: Errors, rng: np.random.Generator, seeds_from: np.random.Generator | None = None) -> np.ndarray:
    """Return the error rate of each resample. Generators in the same state draw the same utterances.

    Args:
        seeds_from: generator that draws the seeds; None: `rng`.
    """
    count, seeds = len(found.words_U), len(found.errors_SU)
    times_RU = rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    drawn_RS = (rng if seeds_from is None else seeds_from).integers(seeds, size=(RESAMPLES, seeds))
    errors_RS = np.take_along_axis(times_RU @ found.errors_SU.T, drawn_RS, axis=1)
    return errors_RS.sum(1) / (seeds * np.maximum(times_RU @ found.words_U, 1))
