"""Error rates: minimal and complete alignments, counts that add up, coverage of intervals, reports with every key."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wenet_fusion.data.lists.kaldi import read_table
from wenet_fusion.scoring import error_rate
from wenet_fusion.scoring.error_rate import LEVEL, AlignedPair, Alignment, ErrorCounts, align, score
from wenet_fusion.scoring.transcripts import Counting


def edit_distance(ref, hyp):
    """Wagner and Fischer (1974), as a reference."""
    row = list(range(len(hyp) + 1))
    for i, r in enumerate(ref, 1):
        row, before = [i], row
        for j, h in enumerate(hyp, 1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (r != h)))
    return row[-1]


words = st.lists(st.sampled_from(["one", "two", "three", "four"]), max_size=12)


@given(words, words)
@settings(max_examples=200, deadline=None)
def test_alignment_is_complete_and_minimal(ref, hyp):
    alignment = align(ref, hyp)
    pairs, counts = alignment.pairs, alignment.counts
    assert [pair.reference for pair in pairs if pair.reference is not None] == ref
    assert [pair.hypothesis for pair in pairs if pair.hypothesis is not None] == hyp
    assert counts.errors == edit_distance(ref, hyp) and counts.reference == len(ref)


def test_minimality_check_sees_a_worse_alignment():
    ref, hyp = ["one", "two"], ["two"]
    worse = Alignment((AlignedPair("one", "two"), AlignedPair("two", None)))
    assert worse.counts.errors > edit_distance(ref, hyp) == align(ref, hyp).counts.errors


def test_counts():
    assert align("a b c d".split(), "a x c d e".split()).counts == ErrorCounts(1, 0, 1, 4)
    assert align("a b".split(), []).counts == ErrorCounts(0, 2, 0, 2)
    assert ErrorCounts(1, 2, 3, 10) + ErrorCounts(0, 0, 1, 2) == ErrorCounts(1, 2, 4, 12)
    assert ErrorCounts(1, 2, 3, 12).rate == 0.5
    assert ErrorCounts(0, 0, 0, 0).rate == 0.0 and ErrorCounts(0, 0, 2, 0).rate == math.inf


def test_corpus_rate_is_weighted_by_length():
    result = score({"a": "one", "b": "one two three"}, {"a": "two", "b": "one two three"})
    assert result.total.rate == 0.25
    assert [(utterance.key, utterance.counts.errors) for utterance in result.utterances] == [("a", 1), ("b", 0)]


def test_empty_references_and_keys_that_differ():
    result = score({"silence": "", "noise": "", "x": "one two"}, {"silence": "", "noise": "one", "y": "two"})
    assert result.total == ErrorCounts(0, 2, 1, 2)
    assert result.missing == ("x",) and result.extra == ("y",)
    report = result.report()
    assert "no hypothesis, counted as deleted: x" in report and "no reference, not counted: y" in report


def test_characters_ignore_white_space():
    for ref, hyp, counts in (("你 好吗", "你好 嘛", (1, 0, 0, 3)), ("ab c", "a bc", (0, 0, 0, 3))):
        assert score({"k": ref}, {"k": hyp}, Counting("char")).total == counts


@pytest.mark.parametrize(
    "counting, text, expected",
    [
        (Counting("mixed"), "我想听 Hello  world的歌", "我 想 听 Hello world 的 歌"),
        (Counting("mixed"), "カラオケ3時 안녕하세요 привет", "カ ラ オ ケ 3 時 안녕하세요 привет"),
        (Counting("mixed"), "𠮷野<noise>家々", "𠮷 野 <noise> 家 々"),
        (Counting("mixed", ignore_punctuation=True), "你好，World！", "你 好 World"),
        (
            Counting("word", ignore_punctuation=True),
            "Well-known: “don’t” don't, 'tis “ça”…",
            "Well known don't don't tis ça",
        ),
        (Counting("word", ignore_case=True), "STRASSE Straße ΣΑΣ σας Å", "strasse strasse σασ σασ å"),
        (Counting("char", ignore_punctuation=True), "a-b. c", "a b c"),
        (Counting(), "cafe\u0301, ÅB", "café, ÅB"),
        (Counting("word", True, True), "  ¿QUÉ?  ", "qué"),
    ],
)
def test_the_unit_in_which_errors_are_counted(counting, text, expected):
    assert counting.tokens(text) == expected.split()


def test_an_unknown_unit_is_refused():
    with pytest.raises(ValueError, match="counted in word, char, mixed, not in 'words'"):
        Counting("words")


# ---- corpora


def corpus(rng, utterances, error_probability):
    """Return references of 1 to 12 words, whose words are wrong with a probability that varies between utterances."""
    references, hypotheses = {}, {}
    for key in map(str, range(utterances)):
        wrong = rng.random(rng.integers(1, 13)) < min(1.0, error_probability * rng.exponential() ** 2 / 2)
        references[key] = " ".join("a" * len(wrong))
        hypotheses[key] = " ".join("b" if error else "a" for error in wrong)
    return score(references, hypotheses)


def test_the_interval_covers_the_true_rate():
    """The interval covers the rate in about 95 of 100 test sets; with independent words it would in far fewer."""
    true_rate = corpus(np.random.default_rng(0), 20000, 0.1).total.rate
    covered = naive = 0
    for seed in range(1, 101):
        scored = corpus(np.random.default_rng(seed), 100, 0.1)
        low, high = scored.interval()
        rate = scored.total.rate
        covered += low <= true_rate <= high
        naive += abs(rate - true_rate) <= 1.96 * math.sqrt(rate * (1 - rate) / scored.total.reference)
    assert 88 <= covered <= 99 and naive < 80


def test_the_interval_is_that_of_the_exact_distribution():
    """With k of n one-word utterances wrong, a resample has Binomial(n, k / n) errors: 95 %, not 90 or 99."""
    count, wrong = 1000, 200
    references = {str(n): "a" for n in range(count)}
    scored = score(references, {str(n): "b" if n < wrong else "a" for n in range(count)})
    share = wrong / count
    logs = [
        math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        + k * math.log(share) + (count - k) * math.log1p(-share)
        for k in range(count + 1)
    ]  # fmt: skip
    cumulative = np.cumsum(np.exp(logs))
    exact = [int(np.searchsorted(cumulative, level)) for level in (0.025, 0.975)]
    assert exact == [176, 225], "as in tables of the binomial distribution"
    bounds = count * np.mean([scored.interval(seed) for seed in range(20)], axis=0)
    assert bounds == pytest.approx(exact, abs=1.5), "one of 90 % would end at 179 and 221"
    assert "\n95 % interval -> " in scored.report(brief=True)


def test_the_interval_is_a_function_of_utterances_and_seed(monkeypatch):
    scored = corpus(np.random.default_rng(1), 200, 0.2)
    low, high = scored.interval()
    assert low < scored.total.rate < high
    assert scored.interval() == (low, high) != scored.interval(seed=1)
    right = score({"a": "one two"}, {"a": "one two"})
    assert right.interval() == (0, 0) and score({"a": ""}, {"a": "x"}).interval() is None
    monkeypatch.setattr(error_rate, "_BLOCK", 1)
    assert scored.interval() == (low, high), "however many are drawn at a time"


def test_deletions_by_length():
    texts = {"a": "", "b": "w", "c": "w w", "d": "w w w", "e": " ".join("w" * 8)}
    scored = score(texts, {"a": "", "b": "", "c": "w", "d": "w w w", "e": "w"})
    assert [(b.shortest, b.longest, b.utterances, b.counts.deletions) for b in scored.by_length()] == [
        (0, 0, 1, 0), (1, 1, 1, 1), (2, 3, 2, 1), (8, 15, 1, 7),
    ]  # fmt: skip
    assert [bucket.counts.deletion_rate for bucket in scored.by_length()] == [0.0, 1.0, 0.2, 7 / 8]


def test_worst_utterances_and_commonest_errors():
    scored = score(
        {"a": "one two", "b": "one two three", "c": "one", "d": "x"},
        {"a": "six", "b": "six six three", "c": "six", "d": "x"},
    )
    assert [utterance.key for utterance in scored.worst(9)] == ["a", "b", "c"] and scored.utterances_wrong == 3
    assert [utterance.key for utterance in scored.worst(1)] == ["a"]
    assert scored.commonest(1) == [(AlignedPair("one", "six"), 3)] and len(scored.commonest(9)) == 3


# ---- the text report


def test_report():
    result = score({"u1": "one three", "u2": "你 好"}, {"u1": "one two three", "u2": "a 好"})
    assert result.report() == (
        "\nutt: u1\nWER: 50.00 % N=2 C=2 S=0 D=0 I=1\nlab: one     three\nrec: one two three\n"
        "\nutt: u2\nWER: 50.00 % N=2 C=1 S=1 D=0 I=0\nlab: 你 好\nrec: a  好\n"
        "\n" + "=" * 75 + "\nOverall -> 50.00 % N=4 C=3 S=1 D=0 I=1\n"
        "95 % interval -> 50.00 % to 50.00 %, bootstrap over utterances\n" + "=" * 75 + "\n"
    )


def test_empty_references_have_insertions_instead_of_a_rate():
    result = score({"a": "", "b": "", "c": ""}, {"a": "one two", "b": "", "c": "one"})
    assert result.total.summary() == "- % N=0 C=0 S=0 D=0 I=3" and result.insertions_per_hour(1800) == 6.0
    text = "3 words in 0.5 h without speech to recognise: 6.0 per hour, in 2 of 3 utterances"
    assert result.report(seconds=1800).endswith(f"I=3\n{text}\n{'=' * 75}\n")
    assert "3 characters without speech to recognise, in 2 of 3 utterances\n" in result.report(True, "characters")
    assert score({"a": "one"}, {"a": ""}).insertions_per_hour(1800) is None


def test_empty_texts_are_counted_in_addition_to_wrong_ones():
    references = {"rejected": "one two", "silence": "", "wrong": "one", "right": "one"}
    scored = score(references, {"rejected": "", "silence": "", "wrong": "six", "right": "one"})
    assert scored.utterances_empty == 1 and scored.utterances_wrong == 2


def test_summary_counts_each_kind_where_it_belongs():
    counts = align("a b c d e f".split(), "a x c e f g h".split()).counts
    assert counts == ErrorCounts(substitutions=1, deletions=1, insertions=2, reference=6)
    assert counts.summary() == "66.67 % N=6 C=4 S=1 D=1 I=2" and counts.deletion_rate == 1 / 6


def test_transcripts(tmp_path):
    path = tmp_path / "text"
    path.write_text("a one  two\nsilence\n\nb three\n")
    assert read_table(path) == {"a": "one  two", "silence": "", "b": "three"}
    path.write_text("a one\nb two\na three\n")
    with pytest.raises(ValueError, match="text:3: key 'a' is already in line 1"):
        read_table(path)


def test_the_interval_is_that_of_its_level():
    """Single words, 20 % wrong: the normal approximation holds. An interval of 90 % would be 16 % narrower."""
    references = {str(number): "one" for number in range(400)}
    scored = score(references, {key: "six" if int(key) < 80 else "one" for key in references})
    widths = [interval.high - interval.low for interval in map(scored.interval, range(8))]
    expected = 2 * NormalDist().inv_cdf(0.5 + LEVEL / 2) * (0.2 * 0.8 / 400) ** 0.5
    assert sum(widths) / len(widths) == pytest.approx(expected, rel=0.06)
    assert f"{100 * LEVEL:.0f} % interval" in scored.report(brief=True)
