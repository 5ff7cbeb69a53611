"""From the hypotheses of a search to a result: tokens and words with times, and what is committed. Knows no search."""

from __future__ import annotations

from collections.abc import Sequence

from wenet_fusion_runtime.model.metadata import Meta
from wenet_fusion_runtime.results.result import Endpoint, Hypothesis, Result, Token
from wenet_fusion_runtime.results.timestamps import Span, spoken_spans
from wenet_fusion_runtime.results.words import group_words


def make_result(
    hypotheses: Sequence[Hypothesis],
    meta: Meta,
    segment: int,
    frames: tuple[int, int],
    endpoint: Endpoint | None,
    earliest: float,
) -> Result:
    """The result of one segment.

    Args:
        hypotheses: best first; of an open segment all those that the search may go on from.
        meta: of the model.
        segment: its number.
        frames: its first frame and the one after its last.
        endpoint: why it closed; None: it is open.
        earliest: seconds, before which no token of it was spoken. CTC emits a word near its end, so the word that a
            segment begins with may have begun in the silence that closed the one before.
    """
    units, seconds, best = meta.vocabulary, meta.frame_seconds, hypotheses[0]
    start, end = frames[0] * seconds, frames[1] * seconds
    emitted = [Span(frame * seconds, (frame + 1) * seconds) for frame in best.frames]
    spans = spoken_spans(emitted, meta.word_times, earliest, end)
    tokens = tuple(
        Token(unit, units.tokens[unit], *span, confidence)
        for unit, span, confidence in zip(best.ids, spans, best.confidences)
    )
    words = group_words(tokens, units).words
    committed = len(words)
    if endpoint is None:
        # Whatever comes, the search goes on from one of these, and rescoring chooses one of those that it ends with.
        shared = _common_length([hypothesis.ids for hypothesis in hypotheses])
        committed = group_words(tokens[:shared], units).closed
    return Result(units.text(best.ids), tokens, words, committed, segment, start, end, tuple(hypotheses), endpoint)


def _common_length(sequences: Sequence[tuple[int, ...]]) -> int:
    """How many first items all sequences share."""
    first, last = min(sequences), max(sequences)  # what these share in front, those that sort between them share too
    agree = (mine == other for mine, other in zip(first, last))
    return next((index for index, same in enumerate(agree) if not same), min(len(first), len(last)))
