"""Hot words and context that change while a stream runs."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.runtime.engine_clients import Client
from support.runtime.fake_model import FRAME, LoudnessModel, make_model, speak
from wenet_fusion_runtime import Backlog, DecodingOptions, Engine, HotWord, Recognizer, Result, Stream
from wenet_fusion_runtime.engine.session import MOST_CHANGES
from wenet_fusion_runtime.search.modes import GREEDY, PREFIX_BEAM, RESCORING
from wenet_fusion_runtime.stream.endpoints import EndpointRules

UNSURE = make_model(LoudnessModel(sharpness=8.0))  # the beam holds several texts
SEGMENTS = EndpointRules(rule2_seconds=0.12)
RECOGNIZERS = {
    mode: Recognizer(UNSURE, DecodingOptions(mode, endpoint=SEGMENTS, commit_seconds=None))
    for mode in (PREFIX_BEAM, RESCORING)
}
LISTS = st.lists(
    st.builds(HotWord, st.sampled_from(["a", "b", "a b", "c d", "d"]), st.sampled_from([-6.0, 1.0, 6.0])),
    max_size=3,
    unique_by=lambda word: word.phrase,
)
BLOCK = 4 * FRAME


def shown(results: list[Result]) -> list[tuple]:
    return [(r.text, r.end_seconds, r.tokens, [(h.ids, h.score) for h in r.hypotheses]) for r in results]


def run(stream: Stream, samples: np.ndarray, changes: list[tuple[int, list[HotWord]]]) -> list[Result]:
    results, position = [], 0
    for at, words in sorted(changes, key=lambda change: change[0]):
        results += stream.accept_waveform(samples[position:at])
        stream.set_hot_words(words)
        position = at
    return results + stream.accept_waveform(samples[position:]) + stream.finish()


@settings(max_examples=25, deadline=None)
@given(
    text=st.text("abcd  ", min_size=1, max_size=8),
    mode=st.sampled_from([PREFIX_BEAM, RESCORING]),
    first=LISTS,
    second=LISTS,
    at=st.integers(0, 40 * FRAME),
)
def test_segments_after_a_change_are_those_of_a_stream_that_began_with_the_words(
    text: str, mode: str, first: list[HotWord], second: list[HotWord], at: int
) -> None:
    samples, recognizer = speak(text), RECOGNIZERS[mode]
    at = min(at, len(samples))
    found = run(recognizer.create_stream(4, 4, hot_words=first), samples, [(at, second)])
    before = run(recognizer.create_stream(4, 4, hot_words=first), samples, [])
    after = run(recognizer.create_stream(4, 4, hot_words=second), samples, [])
    assert len(found) == len(before) == len(after)  # silences close the segments, whatever the words are
    changed = at // BLOCK * BLOCK / 8000  # seconds that were decoded before the change
    for one, old, new in zip(found, before, after):
        if one.end_seconds < changed - 1e-6:
            assert shown([one]) == shown([old])
        elif one.start_seconds >= changed - 1e-6:
            assert shown([one]) == shown([new])


@settings(max_examples=15, deadline=None)
@given(text=st.text("abcd ", min_size=1, max_size=6), words=LISTS, times=st.lists(st.integers(0, 9000), max_size=4))
def test_the_same_words_again_change_nothing(text: str, words: list[HotWord], times: list[int]) -> None:
    samples, recognizer = speak(text), RECOGNIZERS[PREFIX_BEAM]
    times = [min(at, len(samples)) for at in times]
    found = run(recognizer.create_stream(4, 4, hot_words=words), samples, [(at, list(words)) for at in times])
    assert shown(found) == shown(run(recognizer.create_stream(4, 4, hot_words=words), samples, []))


@settings(max_examples=15, deadline=None)
@given(
    text=st.text("abcd ", min_size=1, max_size=6),
    changes=st.lists(st.tuples(st.integers(0, 9000), LISTS), max_size=3),
    piece=st.sampled_from([77, 640, 3000]),
)
def test_a_session_changes_where_its_stream_alone_does(text: str, changes: list, piece: int) -> None:
    samples, recognizer = speak(text), RECOGNIZERS[PREFIX_BEAM]
    changes = sorted(((min(at, len(samples)), words) for at, words in changes), key=lambda change: change[0])
    with Engine(recognizer.model) as engine:
        client, position = Client(engine, recognizer, 4), 0
        for at, words in [*changes, (len(samples), None)]:
            for start in range(position, at, piece):
                client.session.push(samples[start : min(start + piece, at)])
            position = max(position, at)
            while words is not None:
                try:
                    client.session.set_hot_words(words)
                    break
                except Backlog:
                    client._changed.wait(0.01)
        client.session.end()
        found = client.wait().finals
    expected = run(recognizer.create_stream(4), samples, changes)
    assert [(r.text, r.end_seconds) for r in found] == [(r.text, r.end_seconds) for r in expected]
    scores = [[h.score for h in r.hypotheses] for r in found], [[h.score for h in r.hypotheses] for r in expected]
    assert all(one == pytest.approx(other, abs=1e-3) for one, other in zip(*scores))


def test_a_change_waits_for_the_blocks_that_are_complete() -> None:
    samples, recognizer = speak("abab"), RECOGNIZERS[PREFIX_BEAM]
    stream = recognizer.create_stream(4)
    stream.push(samples)
    stream.set_hot_words([HotWord("d", 50.0)])
    stream.set_hot_words([HotWord("c", 50.0)])  # replaces the waiting change
    texts = []
    while (block := stream.ready_block()) is not None:
        scores, state = recognizer.model.step(block.samples[None], [block.length], 4, 4, stream.state)
        assert len(stream._changes) == 1
        texts.append(stream.result.text)
        stream.advance(*scores.row(0), state)
    assert not stream._changes and not any("c" in text or "d" in text for text in texts)
    stream.accept_waveform(speak("a"))
    assert "c" in stream.result.text


def test_words_and_context_are_set_apart() -> None:
    recognizer = Recognizer(UNSURE, DecodingOptions(PREFIX_BEAM, hot_words=[HotWord("a", 1.0)]))
    stream = recognizer.create_stream(hot_words=[HotWord("b", 2.0)])
    # The letters of the fake model are not names, so another finder replaces the real one.
    finder: Any = type("Finder", (), {"find": lambda self, text: tuple(text.split())})()
    object.__setattr__(stream.biasing, "finder", finder)
    assert stream.set_context("b c", boost=3.0) == ("b", "c")
    own = stream.biasing.scorers
    assert {word.phrase: word.boost for word in stream.biasing.hot_words} == {"b": 2.0}
    gained = own.most_gained[[3, 4, 5]]
    assert gained.tolist() == pytest.approx([1.0, 3.0, 3.0])  # an upper bound: b may lose 1 again
    assert [own.advance(own.start(), token)[0] for token in (3, 4, 5)] == [1.0, 2.0, 3.0]
    stream.set_hot_words([])
    own = stream.biasing.scorers
    assert [own.advance(own.start(), token)[0] for token in (3, 4, 5)] == [1.0, 3.0, 3.0]
    assert stream.set_context("") == () and stream.biasing.scorers is recognizer.create_stream().biasing.scorers


def test_greedy_streams_refuse_a_context_unread() -> None:
    stream = Recognizer(UNSURE, DecodingOptions(GREEDY)).create_stream()
    finder: Any = type("Finder", (), {"find": lambda self, text: pytest.fail("read") if text.strip() else ()})()
    object.__setattr__(stream.biasing, "finder", finder)
    with pytest.raises(ValueError, match="keeps a single hypothesis, so hot words and a context have no effect"):
        stream.set_context("no terms here")
    assert stream.set_context(" \n") == ()


def test_unusable_words_give_one_message_and_change_nothing() -> None:
    stream = RECOGNIZERS[PREFIX_BEAM].create_stream(hot_words=[HotWord("a")])
    before = stream.biasing
    with pytest.raises(ValueError, match="2 hot words cannot be used:\nhot word 'x': no token is 'x'\nhot word '': is"):
        stream.set_hot_words([HotWord("b"), HotWord("x"), HotWord("")])
    assert stream.biasing is before
    greedy = Recognizer(UNSURE, DecodingOptions(GREEDY)).create_stream()
    with pytest.raises(ValueError, match="keeps a single hypothesis, so hot words have no effect"):
        greedy.set_hot_words([HotWord("a")])
    greedy.set_hot_words([])
    greedy.finish()
    with pytest.raises(ValueError, match="the stream is finished; give hot words to another stream"):
        stream.finish(), stream.set_hot_words([HotWord("b")])


def test_changes_that_no_worker_takes_are_refused() -> None:
    recognizer = RECOGNIZERS[PREFIX_BEAM]
    engine = Engine(recognizer.model)
    session = engine.open(recognizer.create_stream(), print)
    engine._scheduler._stopped = True  # workers take nothing more
    with engine._scheduler._changed:
        engine._scheduler._changed.notify_all()
    for worker in engine._workers:
        worker.join()
    words = [[HotWord("a", float(boost))] for boost in range(1, MOST_CHANGES + 2)]
    for each in words[:-1]:
        session.set_hot_words(each)
    session.set_hot_words(words[-2])  # no change
    with pytest.raises(Backlog, match="changes of the hot words are waiting"):
        session.set_hot_words(words[-1])
    engine.shutdown()
    session.set_hot_words(words[-1])  # of a closed session: dropped
