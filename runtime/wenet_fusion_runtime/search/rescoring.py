"""Re-ranks CTC hypotheses with the scores of attention decoders. Pure; knows no model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wenet_fusion_runtime.results.result import Hypothesis


def rescore(
    hypotheses: Sequence[Hypothesis], decoder_scores: np.ndarray, ctc_weight: float, reverse_weight: float
) -> list[Hypothesis]:
    """Hypotheses with `score = ctc_weight * ctc + attention + (ctc_weight + 1) * (context + lm + length)`, best first,
    where `attention = (1 - reverse_weight) * l2r + reverse_weight * r2l`.

    What hot words, a language model and a length penalty added in the search is weighted like all evidence of the audio
    together, so that a boost that decides between two texts there decides here too if the decoders see it as CTC does.

    Args:
        hypotheses: N hypotheses of one segment.
        decoder_scores: (N, 2) log-probability of each hypothesis, end included, from the left-to-right and the
            right-to-left decoder.
        ctc_weight: weight of the CTC score.
        reverse_weight: share of the right-to-left decoder, 0 to 1; at 0 its column is not read.
    Ties keep their order.
    Source: two-pass decoding, Zhang et al. 2020 (U2, arXiv:2012.05481) and Wu et al. 2021 (U2++, arXiv:2106.05642).
    """
    if decoder_scores.shape != (len(hypotheses), 2):
        raise ValueError(f"decoder scores have shape {decoder_scores.shape}, expected {(len(hypotheses), 2)}")
    attention = decoder_scores[:, 0]
    if reverse_weight:
        attention = (1.0 - reverse_weight) * attention + reverse_weight * decoder_scores[:, 1]
    rescored = [
        hypothesis._replace(
            score=ctc_weight * hypothesis.ctc_score + score + (ctc_weight + 1.0) * _added(hypothesis),
            attention_score=score,
        )
        for hypothesis, score in zip(hypotheses, attention.tolist())
    ]
    return sorted(rescored, key=lambda hypothesis: -hypothesis.score)


def _added(hypothesis: Hypothesis) -> float:
    return hypothesis.context_score + hypothesis.lm_score + hypothesis.length_score
