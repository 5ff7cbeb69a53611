"""The report about a data list: utterances that training would use, and measurements."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from wenet_fusion.data.judgement import Skip


class Distribution(NamedTuple):
    """Values of a property over the utterances of a list, for a histogram."""

    name: str
    unit: str
    values: np.ndarray


class DataReport(NamedTuple):
    """The utterances of a data list that training would use, and those it would skip.

    >>> DataReport(400, 0.35, [Skip("u1", "u1.wav: is empty")]).skipped[0].key
    'u1'
    """

    utterances: int  # number of utterances that training would use
    hours: float  # total duration of these utterances
    skipped: list[Skip]  # unusable utterances
    notes: tuple[str, ...] = ()  # filtered utterances, wrong durations, changes of transcripts, duplicates
    problems: tuple[str, ...] = ()  # unreadable lines of the list; training refuses a list that has any
    facts: tuple[str, ...] = ()  # measurements of the check
    distributions: tuple[Distribution, ...] = ()
