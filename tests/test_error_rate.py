"""Error rates: alignments are minimal and complete, counts add up, the report names every key."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wenet_fusion.error_rate import AlignedPair, Alignment, ErrorCounts, align, score
from wenet_fusion.files import read_table


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
        assert score({"k": ref}, {"k": hyp}, unit="char").total == counts


def test_report():
    result = score({"u1": "one three", "u2": "你 好"}, {"u1": "one two three", "u2": "a 好"})
    assert result.report() == (
        "\nutt: u1\nWER: 50.00 % N=2 C=2 S=0 D=0 I=1\nlab: one     three\nrec: one two three\n"
        "\nutt: u2\nWER: 50.00 % N=2 C=1 S=1 D=0 I=0\nlab: 你 好\nrec: a  好\n"
        "\n" + "=" * 75 + "\nOverall -> 50.00 % N=4 C=3 S=1 D=0 I=1\n" + "=" * 75 + "\n"
    )


def test_transcripts(tmp_path):
    path = tmp_path / "text"
    path.write_text("a one  two\nsilence\n\nb three\n")
    assert read_table(path) == {"a": "one  two", "silence": "", "b": "three"}
    path.write_text("a one\nb two\na three\n")
    with pytest.raises(ValueError, match="text:3: key 'a' is already in line 1"):
        read_table(path)
