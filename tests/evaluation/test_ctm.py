"""CTM and TextGrid files: written files are read again, in order and without overlap; errors are reported."""

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wenet_fusion_runtime.results.formats import ctm_lines
from wenet_fusion_runtime.results.result import Word

from wenet_fusion.evaluation.timestamps.textgrid import SHORTEST_SECONDS, format_textgrid
from wenet_fusion.scoring.ctm import keys_without_words, read_ctm

times = st.lists(st.floats(0, 20), min_size=2, max_size=20).map(sorted)


def words_of(bounds: list[float]) -> list[Word]:
    """Return words between pairs of times; some have no length, and some are adjacent."""
    return [Word(f"w{n}", *pair, 0.5) for n, pair in enumerate(zip(bounds[::2], bounds[1::2]))]


def test_a_file_is_read_with_and_without_confidence(tmp_path):
    path = tmp_path / "words.ctm"
    path.write_text(";; comment\nu 1 0.5 0.25 A\n\nv A 1.0 0.5 B 0.75\nu 1 1.0 0 C\n")
    assert read_ctm(path) == {
        "u": [Word("A", 0.5, 0.75, 1.0), Word("C", 1.0, 1.0, 1.0)],
        "v": [Word("B", 1.0, 1.5, 0.75)],
    }
    bad = [
        "u 1 0.5 A",
        "u 1 0.5 x A",
        "u 1 0.5 -1 A",
        "u 1 nan 1 A",
        "u 1 -1 3 A",
        "u 1 0 inf A",
        "u 1 0 1 A x",
        "u 1 0 1 A 1 1",
    ]
    path.write_text("u 1 0.5 0.25 A\n" + "".join(f"{line}\n" for line in bad))
    with pytest.raises(ValueError) as caught:
        read_ctm(path)
    problems = str(caught.value).splitlines()
    assert len(problems) == len(bad)
    assert problems[0] == f"{path}:2: not 'key channel start duration word [confidence]': 'u 1 0.5 A'"
    path.write_text(";; nothing\n")
    assert read_ctm(path) == {}


@settings(max_examples=50, deadline=None)
@given(bounds=times)
def test_written_words_are_read_again_without_overlap(tmp_path_factory, bounds):
    words = words_of(bounds)
    path = tmp_path_factory.mktemp("ctm") / "words.ctm"
    path.write_text(ctm_lines("u", words))
    found = read_ctm(path)["u"]
    assert [word.text for word in found] == [word.text for word in words]
    for word, other in zip(found, words):
        assert word.start_seconds == pytest.approx(other.start_seconds, abs=6e-4)
        assert word.end_seconds == pytest.approx(other.end_seconds, abs=6e-4)
    for word, later in itertools.pairwise(found):
        assert word.end_seconds <= later.start_seconds + 1e-9


def test_missing_words_are_reported_and_a_foreign_file_is_refused(tmp_path):
    spoken, path = {"a": [Word("A", 0, 1, 1)]}, tmp_path / "words.ctm"
    assert keys_without_words(spoken, {"a": "A", "b": "B C", "silence": ""}, path) == ["b"]
    assert keys_without_words(spoken, {"silence": " "}, path) == []
    with pytest.raises(ValueError, match="words.ctm: holds no word"):
        keys_without_words({}, {"b": "B"}, path)
    with pytest.raises(
        ValueError, match="words.ctm: belongs to other utterances: its first is a, .* none of the 2 .* such as b"
    ):
        keys_without_words(spoken, {"b": "B", "c": "C"}, path)


# ---- TextGrid


def read_textgrid(text):
    """Tiers of (start, end, text)."""
    tiers, seconds = {}, float(re.search(r"^xmax = (.+)$", text, re.M)[1])
    for block in re.split(r"    item \[\d+\]:\n", text)[1:]:
        name = re.search(r'name = "(.*)"', block)[1]
        number = r"xmin = (\S+)\s+xmax = (\S+)\s+text = \"(.*)\"$"
        found = [
            (float(start), float(end), word.replace('""', '"')) for start, end, word in re.findall(number, block, re.M)
        ]
        assert int(re.search(r"intervals: size = (\d+)", block)[1]) == len(found)
        assert float(re.search(r"^        xmax = (.+)$", block, re.M)[1]) == seconds
        tiers[name] = found
    assert int(re.search(r"^size = (\d+)$", text, re.M)[1]) == len(tiers)
    return tiers, seconds


def test_a_textgrid_has_what_praat_wants():
    words, tokens = [Word('sa"id', 0.5, 1.0, 1), Word("b", 1.0, 1.25, 1)], [Word("b", 0.0, 2.0, 1)]
    text = format_textgrid({"words": words, "tokens": tokens, "none": []}, 2.0)
    assert '            text = "sa""id"\n' in text, "Praat's way to write a quotation mark"
    tiers, seconds = read_textgrid(text)
    assert seconds == 2.0 and tiers == {
        "words": [(0, 0.5, ""), (0.5, 1.0, 'sa"id'), (1.0, 1.25, "b"), (1.25, 2.0, "")],
        "tokens": [(0, 2.0, "b")],
        "none": [(0, 2.0, "")],
    }


@settings(max_examples=100, deadline=None)
@given(bounds=times, tail=st.floats(0, 2))
def test_intervals_have_a_length_and_no_gaps(bounds, tail):
    words = words_of(bounds)
    tiers, seconds = read_textgrid(format_textgrid({"words": words, "other": []}, bounds[-1] + tail))
    for intervals in tiers.values():
        assert intervals[0][0] == 0 and intervals[-1][1] == seconds
        assert all(end - start > 0.4 * SHORTEST_SECONDS for start, end, _ in intervals)
        assert all(before[1] == after[0] for before, after in itertools.pairwise(intervals))
    assert [text for *_, text in tiers["words"] if text] == [word.text for word in words]
