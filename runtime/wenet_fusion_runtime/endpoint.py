"""When an open segment closes: a pure rule over counts of frames. Knows no audio, no tokens, no search."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class SegmentCounts(NamedTuple):
    """What the rule remembers of the open segment."""

    frames: int = 0     # frames since the segment was opened
    blanks: int = 0     # blank frames at its end, without interruption


class SegmentRule(NamedTuple):
    """Once `max_frames` are open: close at a run of `silence_frames` blanks, or `extra_frames` later in any case.

    The run may have begun before `max_frames`. The decision at a frame reads that frame and the counts only, so it does
    not depend on how the frames arrive.
    """

    max_frames: int
    silence_frames: int
    extra_frames: int

    def scan(self, counts: SegmentCounts, is_blank: np.ndarray) -> tuple[int | None, SegmentCounts]:
        """Feed frames until the segment closes.

        Args:
            counts: of the frames seen before.
            is_blank: (T,) bool, whether blank is the most probable unit of a frame.
        Returns:
            (n, fresh counts) if the segment closes after the first n >= 1 of these frames, the rest being the next
            segment's; (None, counts) if it stays open.
        """
        frames, blanks = counts
        for index, blank in enumerate(is_blank.tolist(), start=1):
            frames += 1
            blanks = blanks + 1 if blank else 0
            in_silence = frames >= self.max_frames and blanks >= self.silence_frames
            if in_silence or frames >= self.max_frames + self.extra_frames:
                return index, SegmentCounts()
        return None, SegmentCounts(frames, blanks)
