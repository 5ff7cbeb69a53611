"""Results as text, JSON lines, CTM and subtitles: their contents, and the layout of subtitles."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wenet_fusion_runtime.results.display_width import display_width
from wenet_fusion_runtime.results.formats import FORMATS, SUFFIXES, make_writer, partial_record
from wenet_fusion_runtime.results.result import Endpoint, Result, Token, Word
from wenet_fusion_runtime.results.subtitles import LINE_WIDTH, LINES, MAX_SECONDS, Cue, make_cues
from wenet_fusion_runtime.results.words import joined_words


def result(words: list[Word], segment: int = 0, endpoint: Endpoint | None = Endpoint.RULE2) -> Result:
    tokens = tuple(Token(3, word.text, *word[1:4]) for word in words)
    return Result(joined_words(words), tokens, tuple(words), len(words), segment, 0.0, 9.99951, (), endpoint)


def said(text: str, start: float = 1.0, seconds: float = 0.25, gap: float = 0.05) -> list[Word]:
    """The words of a text, one after the other."""
    words = []
    for word in text.split():
        words.append(Word(word, start, start + seconds, 0.5))
        start += seconds + gap
    return words


TWO = [Word("HELLO", 0.1, 0.5004, 0.98765), Word("<unk>", 0.5004, 3661.5, 0.5)]


def written(form: str, name: str = "a b.wav", named: bool = True) -> str:
    writer = make_writer(form, name, named)
    segments = [result(TWO), result([], 1), result([Word("&YOU", 4000.0, 4000.2, 1.0)], 2, Endpoint.END)]
    return writer.begin() + "".join(map(writer.segment, segments)) + writer.end("HELLO <unk> &YOU")


def test_text_is_one_line() -> None:
    assert written("text") == "a b.wav\tHELLO <unk> &YOU\n"
    assert written("text", named=False) == "HELLO <unk> &YOU\n"


def test_json_has_a_line_for_each_segment() -> None:
    first, second, third = map(json.loads, written("json").splitlines())
    assert list(first) == ["file", "segment", "start", "end", "endpoint", "text", "words", "tokens"]
    assert (first["file"], first["text"], first["endpoint"], first["end"]) == ("a b.wav", "HELLO <unk>", "rule2", 10.0)
    assert first["words"][0] == {"text": "HELLO", "start": 0.1, "end": 0.5, "confidence": 0.9877}
    assert first["tokens"][1] == {"text": "<unk>", "id": 3, "start": 0.5, "end": 3661.5, "confidence": 0.5}
    assert (second["text"], second["words"]) == ("", []) and third["endpoint"] == "end_of_audio"


def test_a_partial_says_what_is_committed() -> None:
    assert partial_record(result(TWO, 7, None)) == {"segment": 7, "partial": "HELLO <unk>", "committed": 2}


def test_ctm_has_a_line_for_each_word() -> None:
    assert written("ctm").splitlines() == [
        "a_b.wav 1 0.100 0.400 HELLO 0.9877",
        "a_b.wav 1 0.500 3661.000 <unk> 0.5000",
        "a_b.wav 1 4000.000 0.200 &YOU 1.0000",
    ]


def test_srt() -> None:
    assert written("srt") == (
        "1\n00:00:00,100 --> 00:00:00,500\nHELLO\n\n2\n00:00:00,500 --> 01:01:01,500\n<unk>\n\n"
        "3\n01:06:40,000 --> 01:06:41,000\n&YOU\n\n"
    )


def test_vtt_escapes_what_would_be_markup() -> None:
    lines = written("vtt").splitlines()
    assert lines[:2] == ["WEBVTT", ""] and lines[2] == "00:00:00.100 --> 00:00:00.500"
    assert "&lt;unk&gt;" in lines and "&amp;YOU" in lines and "1" not in lines


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown output format 'doc'; choose one of text, json, ctm, srt, vtt"):
        make_writer("doc", "a", True)
    assert len(FORMATS) == len(SUFFIXES)


# ---- subtitles


def test_a_long_segment_becomes_several_subtitles_of_two_balanced_lines() -> None:
    words = said("the quick brown fox jumps over the lazy dog and runs away into the dark forest where nobody will "
                 "ever find it again")  # fmt: skip
    cues = make_cues(words)
    assert [cue.lines for cue in cues] == [
        ("the quick brown fox jumps over the lazy", "dog and runs away into the dark forest"),
        ("where nobody will ever find it again",),
    ]
    assert cues[0].start_seconds == 1.0 and cues[0].end_seconds == pytest.approx(words[15].end_seconds)
    assert cues[1].start_seconds == words[16].start_seconds


def test_pauses_and_long_times_begin_another_subtitle() -> None:
    assert [cue.lines for cue in make_cues([*said("one two"), *said("three", 3.0)])] == [("one two",), ("three",)]
    slow = make_cues(said("one two three four five six", seconds=2.0, gap=0.5))
    assert [cue.lines for cue in slow] == [("one two three",), ("four five six",)]


def test_short_subtitles_stay_as_long_as_the_next_one_allows() -> None:
    assert make_cues(said("one", 1.0, 0.1)) == [Cue(1.0, 2.0, ("one",))]
    found = make_cues([Word("x" * 42, 1.0, 1.1, 1.0), Word("y" * 42, 1.2, 1.3, 1.0), Word("z", 1.4, 1.5, 1.0)])
    assert [cue[:2] for cue in found] == [(1.0, pytest.approx(1.4)), (pytest.approx(1.4), pytest.approx(2.4))]
    assert make_cues(said("one", 1.0), earliest=1.5)[0].start_seconds == 1.5, (
        "a cue of the segment before is still shown"
    )


def test_a_subtitle_waits_for_the_one_of_the_segment_before() -> None:
    writer = make_writer("vtt", "a", True)
    text = "".join(writer.segment(result(said(word, at, 0.1))) for word, at in (("one", 1.0), ("two", 1.5)))
    assert re.findall(r"00:00:(\S+) --> 00:00:(\S+)", text) == [("01.000", "02.000"), ("02.000", "03.000")]


def test_wide_characters_count_twice_and_have_no_spaces() -> None:
    words = [Word("\u4f60", 0.1 * n, 0.1 * n + 0.1, 1.0, False) for n in range(50)]
    cues = make_cues(words)
    assert [[len(line) for line in cue.lines] for cue in cues] == [[21, 21], [8]]


def test_decomposed_hangul_takes_the_columns_of_its_syllables() -> None:
    words = [Word("\u1112\u1161\u11ab", 0.1 * n, 0.1 * n + 0.1, 1.0, False) for n in range(42)]
    (cue,) = make_cues(words)
    assert [display_width(line) for line in cue.lines] == [LINE_WIDTH, LINE_WIDTH]


def test_a_word_wider_than_a_line_stands_alone() -> None:
    cues = make_cues(said("a " + "b" * 60 + " c"))
    assert [line for cue in cues for line in cue.lines] == ["a", "b" * 60, "c"]


WORDS = st.lists(
    st.tuples(st.text("abcdefgh\u4f60", min_size=1, max_size=15), st.floats(0, 2), st.floats(0, 3), st.booleans()),
    max_size=60,
)


@settings(max_examples=100, deadline=None)
@given(WORDS, st.floats(0, 5))
def test_subtitles_hold_every_word_once_in_time_and_fit(parts: list, earliest: float) -> None:
    words, at = [], 0.0
    for text, seconds, gap, spaced in parts:
        words.append(Word(text, at, at + seconds, 1.0, spaced))
        at += seconds + gap
    cues = make_cues(words, earliest)
    assert re.sub(r"\s", "", "".join("".join(cue.lines) for cue in cues)) == "".join(text for text, *_ in parts)
    for cue in cues:
        assert 1 <= len(cue.lines) <= LINES and all(0 < display_width(line) <= LINE_WIDTH for line in cue.lines)
    times = [earliest, *(seconds for cue in cues for seconds in cue[:2])]
    assert times == sorted(times)
    if not earliest:
        assert all(cue.end_seconds - cue.start_seconds <= MAX_SECONDS + 1e-9 for cue in cues)
