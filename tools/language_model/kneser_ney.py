"""Estimate n-gram models with interpolated modified Kneser-Ney smoothing (Chen and Goodman, 1999) from word numbers.

Shapes: V words, P positions in the text, M distinct n-grams of one order. The n-grams of an order are numbered in
sorted order: first by the number of their prefix (an n-gram of the previous order), then by that of the last word.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

START, END, UNKNOWN = range(3)  # numbers of <s>, </s> and <unk>
FALLBACK = (0.5, 1.0, 1.5)  # discounts where the text does not determine them; the same as in KenLM's lmplz


class Ngrams(NamedTuple):
    """The distinct n-grams of one order in a text."""

    prefix: np.ndarray  # (M,) int64, number of the n-gram without its last word; 0 for order 1
    last: np.ndarray  # (M,) int64, number of its last word
    suffix: np.ndarray  # (M,) int64, number of the n-gram without its first word; 0 for order 1
    is_at_start: np.ndarray  # (M,) bool, whether its first word is <s>
    counts: np.ndarray  # (M,) int64, number of its occurrences


class Discounts(NamedTuple):
    """The discounts to subtract from counts of 1, of 2, and of 3 or more."""

    one: float
    two: float
    more: float
    estimated: bool  # False: these are FALLBACK, because the text is too small or too regular

    def of(self, counts: np.ndarray) -> np.ndarray:
        """Return the discount (M,) for each count; 0 for a count of 0."""
        return np.array([0.0, self.one, self.two, self.more])[np.minimum(counts, 3)]


class Order(NamedTuple):
    """The n-grams of one order in the model, with their probabilities and back-off weights."""

    words: np.ndarray  # (M, order) int
    probabilities: np.ndarray  # (M,) float64, of the last word given the others; 0 for <s>
    backoffs: np.ndarray  # (M,) float64, back-off weights; 1 for an n-gram without continuation
    discounts: Discounts


def prune_thresholds(prune: Sequence[int], order: int) -> list[int]:
    """Return a threshold for each order; the last number of `prune` also applies to all higher orders.

    Raises:
        ValueError: there are no thresholds or too many, the first is not 0, or one is smaller than the previous one.
            Thresholds may not fall, because the prefix and the suffix of each n-gram must be in the model.
    """
    thresholds = [*prune, *[prune[-1]] * order][:order] if prune else []
    if not thresholds or len(prune) > order or thresholds[0] or thresholds != sorted(thresholds):
        raise ValueError(
            f"prune {' '.join(map(str, prune))}: expected up to {order} numbers, the first one 0, none smaller than the"
            " one before it"
        )
    return thresholds


def estimate(text_P: np.ndarray, vocabulary_size: int, thresholds: Sequence[int]) -> list[Order]:
    """Estimate a model with an order per threshold. After any history, the probabilities of all words but <s> sum to 1.

    Args:
        text_P: numbers of words; each sentence begins with START and ends with END.
        vocabulary_size: V. Words that do not occur, including UNKNOWN, share the probability mass that is discounted
            from the others.
        thresholds: for each order, leave out n-grams with at most this count; all single words stay. See
            `prune_thresholds`.
    Source: Chen and Goodman 1998, "An empirical study of smoothing techniques for language modeling", TR-10-98, with
    KenLM's pruning (Heafield et al. 2013, "Scalable modified Kneser-Ney language model estimation").
    """
    ngrams = count_ngrams(text_P, vocabulary_size, len(thresholds))
    counts = [_adjusted(level, after) for level, after in zip(ngrams, [*ngrams[1:], None])]
    words, lower, orders = np.empty((1, 0), np.int64), np.array([1.0 / (vocabulary_size - 1)]), []
    kept_before = np.ones(1, bool)
    for level, adjusted, threshold in zip(ngrams, counts, thresholds):
        discounts = estimate_discounts(adjusted)
        kept = level.counts > threshold if orders else np.ones(len(adjusted), bool)
        discounted = np.where(kept, adjusted - discounts.of(adjusted), 0.0)
        totals = np.bincount(level.prefix, adjusted, minlength=len(lower))
        left = np.maximum(totals - np.bincount(level.prefix, discounted, minlength=len(lower)), 0.0)
        # The back-off weight after an n-gram without continuation is 1.
        weights = np.divide(left, totals, out=np.ones(len(lower)), where=totals > 0)
        lower = discounted / totals[level.prefix] + weights[level.prefix] * lower[level.suffix]
        if orders:
            orders[-1] = orders[-1]._replace(backoffs=weights[kept_before])
        else:
            lower[START] = 0.0
        words = np.column_stack([words[level.prefix], level.last])
        orders.append(Order(words[kept], lower[kept], np.ones(kept.sum()), discounts))
        kept_before = kept
    return orders


def count_ngrams(text_P: np.ndarray, vocabulary_size: int, order: int) -> list[Ngrams]:
    """Count the n-grams of all orders. Order 1 has every word of the vocabulary, even if it does not occur."""
    starts = np.flatnonzero(text_P == START)
    offsets_P = np.arange(len(text_P)) - np.repeat(starts, np.diff(starts, append=len(text_P)))
    words, none = np.arange(vocabulary_size), np.zeros(vocabulary_size, np.int64)
    counts = np.bincount(text_P, minlength=vocabulary_size)
    counts[START] = 0  # never predicted
    found = [Ngrams(none, words, none, words == START, counts)]
    numbers_P = text_P.astype(np.int64)  # number of the n-gram that ends at each position
    for length in tqdm(range(2, order + 1), desc="count n-grams", unit="order", leave=False, disable=None):
        positions = np.flatnonzero(offsets_P >= length - 1)
        keys = numbers_P[positions - 1] * vocabulary_size + text_P[positions]
        keys, first, numbers, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
        example = positions[first]
        is_at_start = offsets_P[example] == length - 1
        found.append(Ngrams(keys // vocabulary_size, keys % vocabulary_size, numbers_P[example], is_at_start, counts))
        numbers_P[positions] = numbers
    return found


def _adjusted(level: Ngrams, longer: Ngrams | None) -> np.ndarray:
    """Return the Kneser-Ney counts (M,): the number of distinct words before an n-gram. N-grams of the highest order
    keep their plain counts, and so do n-grams at the start of a sentence, because no word precedes them.
    """
    if longer is None:
        return level.counts
    return np.where(level.is_at_start, level.counts, np.bincount(longer.suffix, minlength=len(level.counts)))


def estimate_discounts(counts: np.ndarray) -> Discounts:
    """Estimate the discounts from the numbers of n-grams with counts 1 to 4. Return FALLBACK if one of the counts 1, 2
    and 3 does not occur, or if a discount is not between 0 and its count.
    """
    frequency = np.bincount(np.minimum(counts, 5), minlength=6).astype(float)
    if not frequency[1:4].all():
        return Discounts(*FALLBACK, estimated=False)
    ratio = frequency[1] / (frequency[1] + 2 * frequency[2])
    values = [count - (count + 1) * ratio * frequency[count + 1] / frequency[count] for count in (1, 2, 3)]
    if not all(0.0 <= value <= count for count, value in enumerate(values, start=1)):
        return Discounts(*FALLBACK, estimated=False)
    return Discounts(*map(float, values), estimated=True)
