"""The report of a data list: utterances that training would use, and measurements."""

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

    utterances: int  # that it uses
    hours: float  # of those
    skipped: list[Skip]  # unusable ones
    notes: tuple[str, ...] = ()  # what the filters leave out, wrong durations, changes of the transcripts
    problems: tuple[str, ...] = ()  # lines of the list that cannot be read; training refuses such a list
    facts: tuple[str, ...] = ()  # what a check measured
    distributions: tuple[Distribution, ...] = ()
