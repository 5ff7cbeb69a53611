"""The rule that closes segments: when it fires, and that it does not see how frames arrive."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from wenet_fusion_runtime.endpoint import SegmentCounts, SegmentRule

RULE = SegmentRule(max_frames=20, silence_frames=4, extra_frames=10)


def closings(is_blank: list[bool], cuts: list[int], rule: SegmentRule = RULE) -> list[int]:
    """Absolute frame counts at which segments closed, frames coming in blocks."""
    counts, found = SegmentCounts(), []
    bounds = [0, *sorted(cuts), len(is_blank)]
    for start, stop in zip(bounds, bounds[1:]):
        while True:
            count, counts = rule.scan(counts, np.array(is_blank[start:stop], dtype=bool))
            if count is None:
                break
            start += count
            found.append(start)
    return found


def test_closes_at_the_first_silence_after_the_maximum() -> None:
    assert closings([False] * 23 + [True] * 10, []) == [27]


def test_a_silence_that_spans_the_maximum_counts_from_its_start() -> None:
    assert closings([False] * 17 + [True] * 10, []) == [21]
    assert closings([True] * 45, []) == [20, 40]


def test_an_early_or_short_silence_does_not_close() -> None:
    assert closings(([False] * 12 + [True] * 6 + [False] * 5 + [True] * 3 + [False])[:29], []) == []


def test_closes_in_any_case_in_the_end() -> None:
    assert closings([False] * 65, []) == [30, 60]


FRAMES = st.lists(st.booleans(), max_size=120)
CUTS = st.lists(st.integers(0, 120), max_size=20)


@settings(max_examples=50, deadline=None)
@given(is_blank=FRAMES, cuts=CUTS)
def test_closings_do_not_depend_on_blocks(is_blank: list[bool], cuts: list[int]) -> None:
    cuts = [cut for cut in cuts if cut <= len(is_blank)]
    assert closings(is_blank, cuts) == closings(is_blank, [])


def test_the_law_catches_a_rule_that_forgets_silence_between_blocks() -> None:
    class Forgetful(SegmentRule):
        def scan(self, counts: SegmentCounts, is_blank: np.ndarray) -> tuple[int | None, SegmentCounts]:
            return super().scan(counts._replace(blanks=0), is_blank)

    is_blank, broken = [False] * 20 + [True] * 4 + [False] * 3, Forgetful(*RULE)
    assert closings(is_blank, [22], broken) != closings(is_blank, [], broken)
