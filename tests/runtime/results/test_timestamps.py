"""Timestamps: corrected for emission delay, in order, without overlap, wherever segments are cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.runtime.fake_model import make_model, meta_record, speak
from wenet_fusion_runtime.model.metadata import parse_meta
from wenet_fusion_runtime.results.timestamps import EmissionDelay, Span, correct_emission_delay
from wenet_fusion_runtime.stream.decoding_options import DecodingOptions
from wenet_fusion_runtime.stream.endpoints import EndpointRules
from wenet_fusion_runtime.stream.offline import transcribe_offline
from wenet_fusion_runtime.stream.recognizer import Recognizer

FRAME = 0.04
shifts = st.floats(-1, 1).map(lambda value: round(value, 3))


def emitted(frames: list[int]) -> list[Span]:
    return [Span(frame * FRAME, (frame + 1) * FRAME) for frame in frames]


def test_times_move_by_the_shifts_and_meet_in_the_middle_of_an_overlap() -> None:
    found = correct_emission_delay(emitted([10, 40, 45]), EmissionDelay(-0.3, 0.1), 0.0, 9.0)
    expected = [(0.1, 0.54), (1.3, (1.74 + 1.5) / 2), ((1.74 + 1.5) / 2, 1.94)]
    assert np.allclose(found, expected)
    assert correct_emission_delay([], EmissionDelay(-0.3, 0.1), 0.0, 9.0) == []
    frames = emitted([0, 1, 2, 7])
    assert correct_emission_delay(frames, EmissionDelay(), 0.0, 9.0) == frames, (
        "without shifts nothing moves, not by a rounding error"
    )


def test_times_stay_between_their_bounds() -> None:
    assert np.allclose(
        correct_emission_delay(emitted([26, 48]), EmissionDelay(-0.3, 0.3), 1.0, 2.0), [(1.0, 1.38), (1.62, 2.0)]
    )
    assert correct_emission_delay(emitted([0, 1]), EmissionDelay(-1.0, -1.0), 0.0, 1.0) == [(0, 0), (0, 0)]


@settings(max_examples=300, deadline=None)
@given(
    frames=st.sets(st.integers(0, 60), max_size=12).map(sorted),
    start=shifts,
    end=shifts,
    segment=st.tuples(shifts, shifts),
)
def test_times_are_in_order_for_any_shifts(
    frames: list[int], start: float, end: float, segment: tuple[float, float]
) -> None:
    earliest, latest = 1 + min(segment), 1 + max(segment)
    spans = correct_emission_delay(emitted(frames), EmissionDelay(start, end), earliest, latest)
    assert len(spans) == len(frames)
    flat = np.array(spans).reshape(-1)
    assert (np.diff(flat) >= 0).all() and all(earliest <= value <= latest for value in flat)


def test_the_model_file_corrects_timestamps() -> None:
    samples, options = speak("abc", frames=3, gap=6), DecodingOptions()
    shifts = {"start_shift_seconds": -0.08, "end_shift_seconds": 0.04}
    (raw,) = transcribe_offline(make_model(), samples, 8, 2, options)
    (moved,) = transcribe_offline(make_model(word_times=shifts), samples, 8, 2, options)
    assert raw.text == moved.text == "a b c" and raw.hypotheses == moved.hypotheses
    assert [token.end_seconds - token.start_seconds for token in raw.tokens] == pytest.approx([FRAME] * 3)
    assert [round(token.start_seconds / FRAME) for token in raw.tokens] == list(raw.hypotheses[0].frames)
    for before, after in zip(raw.tokens, moved.tokens):
        assert after.start_seconds == pytest.approx(before.start_seconds - 0.08)
        assert after.end_seconds == pytest.approx(before.end_seconds + 0.04)


def test_streams_give_the_timestamps_of_offline_decoding() -> None:
    """Every partial result has its words in order, inside the decoded audio."""
    model = make_model(word_times={"start_shift_seconds": -0.3, "end_shift_seconds": 0.2})
    samples, rng = speak("abcdabcd", frames=2, gap=3), np.random.default_rng(0)
    offline = transcribe_offline(model, samples, 8, 2, DecodingOptions())
    stream, position = Recognizer(model).create_stream(), 0
    while position < len(samples):
        step = int(rng.integers(1, 4000))
        stream.accept_waveform(samples[position : position + step])
        position += step
        partial = stream.result
        times = [time for word in partial.words for time in (word.start_seconds, word.end_seconds)]
        assert [partial.start_seconds, *times, partial.end_seconds] == sorted(
            [partial.start_seconds, *times, partial.end_seconds]
        )
    assert stream.finish() == offline and len(offline[0].words) == 8
    overlapping = [
        word.end_seconds == later.start_seconds for word, later in zip(offline[0].words, offline[0].words[1:])
    ]
    assert all(overlapping), "shifts so large that all words touch"


def test_an_endpoint_before_a_word_does_not_move_its_start() -> None:
    """The model emits a word near its end. Until then an endpoint may close the segment although the word has begun."""
    model = make_model(word_times={"start_shift_seconds": -0.3, "end_shift_seconds": 0.04})
    samples = speak("a  b    cd", frames=2, gap=3)
    (uncut,) = transcribe_offline(model, samples, 8, 2, DecodingOptions())
    rules = EndpointRules(rule1_seconds=0.16, rule2_seconds=0.16)
    options = DecodingOptions(endpoint=rules)
    segments = transcribe_offline(model, samples, 8, 2, options)
    words = [word for segment in segments for word in segment.words]
    assert len(segments) > 6 and [word.text for word in words] == ["a", "b", "c", "d"]
    assert any(segment.words and segment.words[0].start_seconds < segment.start_seconds for segment in segments)
    for word, plain in zip(words, uncut.words):
        assert (word.start_seconds, word.end_seconds) == pytest.approx(
            (plain.start_seconds, plain.end_seconds), abs=0.041
        )
    times = [time for word in words for time in (word.start_seconds, word.end_seconds)]
    assert times == sorted(times), "and none overlaps the one before"
    stream = Recognizer(model, options).create_stream()
    assert [*stream.accept_waveform(samples), *stream.finish()] == segments


def test_words_of_two_segments_do_not_overlap() -> None:
    model = make_model(word_times={"start_shift_seconds": -0.6, "end_shift_seconds": 0.2})
    options = DecodingOptions(endpoint=EndpointRules(rule2_seconds=0.2))
    results = transcribe_offline(model, speak("ab  c", frames=2, gap=3), 8, 2, options)
    assert [result.text for result in results if result.words] == ["a b", "c"]
    times = [time for result in results for word in result.words for time in (word.start_seconds, word.end_seconds)]
    assert times == sorted(times) and times[3] == times[4], "the last two words touch"


def test_a_file_without_word_times_has_none_and_a_wrong_value_is_named() -> None:
    record = meta_record()
    for absent in ({}, {"word_times": None}):
        assert parse_meta({**record, **absent}, "memory").emission_delay == EmissionDelay(0.0, 0.0)
    good = {"start_shift_seconds": -0.3, "end_shift_seconds": 0.05}
    assert parse_meta({**record, "word_times": good}, "memory").emission_delay == EmissionDelay(-0.3, 0.05)
    for wrong, message in (
        ({**good, "end_shift_seconds": float("nan")}, "must be seconds between -10 and 10"),
        ({**good, "start_shift_seconds": -300}, "must be seconds between -10 and 10"),
        ({"start_shift_seconds": 0}, "no key 'end_shift_seconds'"),
        (3, "meta.json"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_meta({**record, "word_times": wrong}, "memory")
