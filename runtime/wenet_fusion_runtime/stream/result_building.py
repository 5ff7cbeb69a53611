"""Build results from the hypotheses of a search: tokens and words with timestamps, and the number of final words."""

from __future__ import annotations

from collections.abc import Sequence

from wenet_fusion_runtime.model.metadata import Meta
from wenet_fusion_runtime.results.result import Endpoint, Hypothesis, Result, Token
from wenet_fusion_runtime.results.timestamps import Span, correct_emission_delay
from wenet_fusion_runtime.results.words import group_words


def make_result(
    hypotheses: Sequence[Hypothesis],
    stable_length: int,
    meta: Meta,
    segment: int,
    frames: tuple[int, int],
    endpoint: Endpoint | None,
    earliest: float,
) -> Result:
    """Return the result of one segment.

    Args:
        hypotheses: best first.
        stable_length: number of leading tokens of the best hypothesis that are final; all once the segment is closed.
        meta: describes the model.
        segment: the segment's number.
        frames: the segment's first frame, and the one after its last.
        endpoint: why the segment closed; None while it is open.
        earliest: lower limit of the tokens' start times, in seconds. CTC emits a word near its end, so the first word
            of a segment may begin before the segment, in the silence that closed the previous one.
    """
    vocabulary, best = meta.vocabulary, hypotheses[0]
    start, end = frames[0] * meta.frame_seconds, frames[1] * meta.frame_seconds
    tokens = make_tokens(best, meta, earliest, end)
    words, closed = group_words(tokens, vocabulary)
    final = len(words) if endpoint is not None else closed[stable_length - 1] if stable_length else 0
    return Result(vocabulary.text(best.ids), tokens, words, final, segment, start, end, tuple(hypotheses), endpoint)


def make_tokens(hypothesis: Hypothesis, meta: Meta, earliest: float, latest: float) -> tuple[Token, ...]:
    """Return the tokens of a hypothesis with timestamps between `earliest` and `latest`, in seconds."""
    seconds, texts = meta.frame_seconds, meta.vocabulary.tokens
    emitted = [Span(frame * seconds, (frame + 1) * seconds) for frame in hypothesis.frames]
    spans = correct_emission_delay(emitted, meta.emission_delay, earliest, latest)
    return tuple(
        Token(token, texts[token], start, end, confidence)
        for token, (start, end), confidence in zip(hypothesis.ids, spans, hypothesis.confidences)
    )
