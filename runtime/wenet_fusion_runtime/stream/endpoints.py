"""Endpoint rules, which close a segment after a number of silent frames or at a certain length."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from wenet_fusion_runtime.results.result import Endpoint
from wenet_fusion_runtime.results.vocabulary import BLANK

_LEAST = 1e-12  # smallest distance of a probability from 0 and 1, so that its odds are finite
LONGEST_SECONDS = 1e7  # largest value of an option in seconds (115 days), so that frame counts stay small integers


@dataclass(frozen=True)
class EndpointRules:
    """Rules that close a segment without a call of `Stream.close_segment`.

    A frame is silent if blank is its most probable token or, with `silence_probability`, if blank is more probable than
    this value. A segment has text once a token begins in it.

    Raises:
        ValueError: a value is out of its range.

    >>> EndpointRules(rule2_seconds=0.8).rule3_seconds
    20.0
    """

    rule1_seconds: float | None = None  # close after this much silence without any text; None: never
    rule2_seconds: float | None = None  # close after this much silence that follows text; None: never
    rule3_seconds: float = 20.0  # close a segment that is this long at the next silence of rule3_silence_seconds
    rule3_silence_seconds: float = 0.4
    rule3_extra_seconds: float = 10.0  # close it this much later even without silence, perhaps within a word
    silence_probability: float | None = None  # a frame is silent if blank is more probable than this
    # Close once the sentence is complete with this probability; None: never. The odds of completeness are the language
    # model's odds that the sentence ends here, times e for each complete_pause_seconds of silence so far.
    complete_probability: float | None = None
    complete_seconds: float = 0.4  # least silence after text before a sentence counts as complete
    complete_pause_seconds: float = 0.5  # mean pause within a sentence

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if value is not None and not abs(value) <= LONGEST_SECONDS:  # also true for NaN
                raise ValueError(f"{name} must be a number of at most {LONGEST_SECONDS:g}, found {value:g}")
        for name, value in (("rule1_seconds", self.rule1_seconds), ("rule2_seconds", self.rule2_seconds)):
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, or None for never, found {value:g}")
        for name in ("rule3_seconds", "complete_seconds", "complete_pause_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, found {getattr(self, name):g}")
        for name in ("rule3_silence_seconds", "rule3_extra_seconds"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, found {getattr(self, name):g}")
        if self.silence_probability is not None and not 0 < self.silence_probability < 1:
            raise ValueError(
                "silence_probability must lie between 0 and 1, or be None for frames whose best token is "
                f"blank, found {self.silence_probability:g}"
            )
        if self.complete_probability is not None and not 0 < self.complete_probability < 1:
            raise ValueError(
                "complete_probability must lie between 0 and 1, or be None for never, found "
                f"{self.complete_probability:g}"
            )


FILE_ENDPOINTS = EndpointRules()  # rule 3 only: a pause closes no segment shorter than 20 s
LIVE_ENDPOINTS = EndpointRules(rule1_seconds=2.4, rule2_seconds=1.2)  # for microphones; servers wait longer in rule 1


class SegmentCounts(NamedTuple):
    """Frame counts of the open segment, from which the rules decide."""

    frames: int = 0  # since the segment was opened
    silent: int = 0  # consecutive silent frames at its end
    has_text: bool = False  # a token began in it
    previous: int = BLANK  # best token of the last frame; before the first frame: the token that the last cut split
    asks: bool = False  # `FrameRules.answer` should be called before the next frame
    needed: float = math.inf  # silent frames after which the sentence is taken as complete


class Scan(NamedTuple):
    """The result of `FrameRules.scan`."""

    counts: SegmentCounts  # after the frames that belong to the segment
    frames: int  # number of these frames
    endpoint: Endpoint | None  # the rule that closes the segment there; None: it stays open


class FrameRules:
    """`EndpointRules` in frames. A decision depends on one frame and the counts, not on how the frames arrive.

    Args:
        rules: rules in seconds, which are rounded to frames.
        frame_seconds: duration of an encoder frame.

    >>> rules = FrameRules(EndpointRules(rule2_seconds=0.08), frame_seconds=0.04)
    >>> scan = rules.scan(SegmentCounts(), np.array([3, 0, 0, 4]), np.log([0.1, 0.9, 0.9, 0.1]))
    >>> scan.frames, scan.endpoint.value  # the segment closes after two silent frames
    (3, 'rule2')
    """

    def __init__(self, rules: EndpointRules, frame_seconds: float) -> None:
        def frames(seconds: float | None) -> float:
            return math.inf if seconds is None else max(1, round(seconds / frame_seconds))

        self._rule1, self._rule2 = frames(rules.rule1_seconds), frames(rules.rule2_seconds)
        self._rule3, self._rule3_silence = frames(rules.rule3_seconds), frames(rules.rule3_silence_seconds)
        self._latest = self._rule3 + round(rules.rule3_extra_seconds / frame_seconds)
        probability = rules.silence_probability
        self._silence_log_prob = None if probability is None else math.log(probability)
        threshold = rules.complete_probability
        self._complete = math.inf if threshold is None else frames(rules.complete_seconds)
        self._complete_log_odds = math.inf if threshold is None else _log_odds(threshold)
        self._pause = rules.complete_pause_seconds / frame_seconds

    def scan(self, counts: SegmentCounts, tokens: np.ndarray, blank_log_probs: np.ndarray) -> Scan:
        """Count frames until the segment closes.

        Args:
            counts: counts of the frames before.
            tokens: (T,) the most probable token of each frame.
            blank_log_probs: (T,) natural logarithms.
        Returns:
            one of three: an endpoint after 1 to T frames (the others belong to the next segment); no endpoint in all T
            frames; or counts with `asks`, which need a call of `answer` before the frames after `Scan.frames`.
        """
        frames, silent, has_text, previous, _, needed = counts
        limit = self._silence_log_prob
        is_silent = tokens == BLANK if limit is None else blank_log_probs > limit
        for index, (token, is_silence) in enumerate(zip(tokens.tolist(), is_silent.tolist()), start=1):
            frames += 1
            silent, needed = (silent + 1, needed) if is_silence else (0, math.inf)
            has_text = has_text or (token != BLANK and token != previous)
            previous = token
            endpoint = self._decide(frames, silent, has_text, needed)
            asks = endpoint is None and has_text and silent == self._complete
            if endpoint is not None or asks:
                return Scan(SegmentCounts(frames, silent, has_text, previous, asks, needed), index, endpoint)
        return Scan(SegmentCounts(frames, silent, has_text, previous, False, needed), len(tokens), None)

    def answer(self, counts: SegmentCounts, end_probability: float) -> tuple[SegmentCounts, Endpoint | None]:
        """Use the probability that the sentence ends after the text so far, for which `scan` asked.

        The lengths of pauses within a sentence follow an exponential distribution, so each `complete_pause_seconds` of
        silence multiplies the odds of the end by e.

        Returns:
            the counts for the next `scan`, and the endpoint if the segment closes at once, else None.
        """
        silence = self._pause * (self._complete_log_odds - _log_odds(end_probability))
        needed = max(counts.silent, math.ceil(silence))
        endpoint = self._decide(counts.frames, counts.silent, counts.has_text, needed)
        return counts._replace(asks=False, needed=needed), endpoint

    def _decide(self, frames: int, silent: int, has_text: bool, needed: float) -> Endpoint | None:
        if silent >= needed:
            return Endpoint.COMPLETE
        if silent >= (self._rule2 if has_text else self._rule1):
            return Endpoint.RULE2 if has_text else Endpoint.RULE1
        if frames >= self._latest or (frames >= self._rule3 and silent >= self._rule3_silence):
            return Endpoint.RULE3
        return None


def _log_odds(probability: float) -> float:
    certain = min(max(probability, _LEAST), 1.0 - _LEAST)
    return math.log(certain / (1.0 - certain))
