"""When an open segment closes: rules over counts of frames. Knows no audio and no search."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from wenet_fusion_runtime.results.result import Endpoint
from wenet_fusion_runtime.results.vocabulary import BLANK


@dataclass(frozen=True)
class EndpointRules:
    """When a segment closes by itself. A frame is silent if blank is its most probable unit, or by `silence_probability`;
    a segment has text once a frame began a token.

    Raises:
        ValueError: a value is out of its range.
    """

    rule1_seconds: float | None = None  # so much silence in a segment without text; None: never
    rule2_seconds: float | None = None  # so much silence after text; None: never
    rule3_seconds: float = 20.0  # a segment open for so long closes
    rule3_silence_seconds: float = 0.4  # at the next silence of this length,
    rule3_extra_seconds: float = 10.0  # or so much later in any case, perhaps within a word
    silence_probability: float | None = None  # a frame is silent if blank is more probable than this

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, found {value}")
        for name, value in (("rule1_seconds", self.rule1_seconds), ("rule2_seconds", self.rule2_seconds)):
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, or None for never, found {value:g}")
        if self.rule3_seconds <= 0:
            raise ValueError(f"rule3_seconds must be positive, found {self.rule3_seconds:g}")
        for name in ("rule3_silence_seconds", "rule3_extra_seconds"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, found {getattr(self, name):g}")
        if self.silence_probability is not None and not 0 < self.silence_probability < 1:
            raise ValueError(
                "silence_probability must lie between 0 and 1, or be None for frames whose best unit is "
                f"blank, found {self.silence_probability:g}"
            )


FILE_ENDPOINTS = EndpointRules()  # only rule 3: texts do not depend on pauses
LIVE_ENDPOINTS = EndpointRules(
    rule1_seconds=2.4, rule2_seconds=1.2
)  # microphones; servers wait longer for the first word


class SegmentCounts(NamedTuple):
    """What the rules remember of the open segment."""

    frames: int = 0  # since the segment was opened
    silent: int = 0  # silent frames at its end, without interruption
    has_text: bool = False  # a token began in it
    previous: int = BLANK  # best unit of the last frame; at the start the token within which the segment began


class Scan(NamedTuple):
    """What `FrameRules.scan` found."""

    counts: SegmentCounts  # after the frames that belong to the segment
    frames: int  # how many of the given frames these are
    endpoint: Endpoint | None  # the rule that closes the segment there; None: it stays open


class FrameRules:
    """`EndpointRules` in frames. The decision at a frame reads that frame and the counts only, so it does not depend on
    how the frames arrive.

    Args:
        rules: in seconds, rounded to frames.
        frame_seconds: of one encoder frame.
    """

    def __init__(self, rules: EndpointRules, frame_seconds: float) -> None:
        def frames(seconds: float | None) -> float:
            return math.inf if seconds is None else max(1, round(seconds / frame_seconds))

        self._rule1, self._rule2 = frames(rules.rule1_seconds), frames(rules.rule2_seconds)
        self._rule3, self._rule3_silence = frames(rules.rule3_seconds), frames(rules.rule3_silence_seconds)
        self._latest = self._rule3 + round(rules.rule3_extra_seconds / frame_seconds)
        probability = rules.silence_probability
        self._silence_log_prob = None if probability is None else math.log(probability)

    def scan(self, counts: SegmentCounts, units: np.ndarray, blank_log_probs: np.ndarray) -> Scan:
        """Feed frames until the segment closes.

        Args:
            counts: of the frames seen before.
            units: (T,) the most probable unit of each frame.
            blank_log_probs: (T,) natural logs.
        Returns:
            the segment's end after the first 1 to T of these frames, the rest being the next segment's; or all T frames
            and no endpoint.
        """
        frames, silent, has_text, previous = counts
        limit = self._silence_log_prob
        is_silent = units == BLANK if limit is None else blank_log_probs > limit
        for index, (unit, is_silence) in enumerate(zip(units.tolist(), is_silent.tolist()), start=1):
            frames += 1
            silent = silent + 1 if is_silence else 0
            has_text = has_text or (unit != BLANK and unit != previous)
            previous = unit
            endpoint = self._decide(frames, silent, has_text)
            if endpoint is not None:
                return Scan(SegmentCounts(frames, silent, has_text, previous), index, endpoint)
        return Scan(SegmentCounts(frames, silent, has_text, previous), len(units), None)

    def _decide(self, frames: int, silent: int, has_text: bool) -> Endpoint | None:
        if silent >= (self._rule2 if has_text else self._rule1):
            return Endpoint.RULE2 if has_text else Endpoint.RULE1
        if frames >= self._latest or (frames >= self._rule3 and silent >= self._rule3_silence):
            return Endpoint.RULE3
        return None
