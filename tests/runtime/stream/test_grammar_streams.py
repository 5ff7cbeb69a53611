"""Streams with a grammar: whole sentences, the same in every cut, per stream, with segments, hot words and engines."""

import math
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.runtime.engine_clients import Client
from support.runtime.fake_model import FRAME, LoudnessModel, make_model, speak
from wenet_fusion_runtime import (
    DecodingOptions,
    EndpointRules,
    Engine,
    Grammar,
    HotWord,
    Recognizer,
    Result,
    Stream,
    transcribe_offline,
)
from wenet_fusion_runtime.search.modes import GREEDY, PREFIX_BEAM, RESCORING

UNSURE = make_model(LoudnessModel(sharpness=8.0))  # the beam holds several texts
SURE = make_model()
SEGMENTS = EndpointRules(rule2_seconds=0.12)
LIGHTS = Grammar("#JSGF V1.0; public <s> = a (b | c) [d] | d+;")
SENTENCES = {"", "a b", "a c", "a b d", "a c d"}


def is_sentence(text: str) -> bool:
    return text in SENTENCES or set(text.split()) == {"d"}


def shown(results: list[Result]) -> list[tuple]:
    return [(r.text, r.end_seconds, r.tokens, [(h.ids, h.score, h.grammar_gap) for h in r.hypotheses]) for r in results]


@settings(max_examples=30, deadline=None)
@given(
    text=st.text("abcd  ", min_size=1, max_size=8),
    mode=st.sampled_from([PREFIX_BEAM, RESCORING]),
    threshold=st.sampled_from([0.5, 3.0, math.inf]),
    cuts=st.lists(st.integers(1, 20 * FRAME), max_size=4),
)
def test_every_cut_gives_the_sentences_of_offline_decoding(
    text: str, mode: str, threshold: float, cuts: list[int]
) -> None:
    samples = speak(text)
    options = DecodingOptions(mode, grammar=LIGHTS, grammar_threshold=threshold, endpoint=SEGMENTS, commit_seconds=0.2)
    expected = transcribe_offline(UNSURE, samples, 4, 4, options)
    stream, found = Recognizer(UNSURE, options).create_stream(4, 4), []
    for piece in np.split(samples, sorted({cut for cut in cuts if cut < len(samples)})):
        found += stream.accept_waveform(piece)
        assert stream.result.committed == 0  # the sentence may still be rejected
    found += stream.finish()
    assert shown(found) == shown(expected)
    for result in found:
        assert is_sentence(result.text) and result.committed == len(result.words)
        assert all(is_sentence(SURE.meta.vocabulary.text(each.ids)) for each in result.hypotheses)


def recognise(text: str, all_streams: Grammar | None, own: Grammar | None = None) -> list[str]:
    recognizer = Recognizer(SURE, DecodingOptions(PREFIX_BEAM, endpoint=SEGMENTS, grammar=all_streams))
    with recognizer.create_stream(4, 4, grammar=own) as stream:
        results = stream.accept_waveform(speak(text))
        results += stream.finish()
    return [result.text for result in results if result.endpoint.value == "rule2"]


def test_each_segment_is_a_sentence_of_its_own() -> None:
    assert recognise("ab   d   acb   ab   ", LIGHTS) == ["a b", "d", "", "a b"]


def test_a_stream_may_have_a_grammar_of_its_own() -> None:
    assert recognise("ab   ", LIGHTS, Grammar("a b")) == ["a b"]
    assert recognise("ab   ", LIGHTS, Grammar("b a")) == [""]
    assert recognise("ab   ", LIGHTS) == recognise("ab   ", None) == ["a b"]


def test_hot_words_change_within_the_grammar() -> None:
    grammar = Grammar("a b\na c")
    recognizer = Recognizer(UNSURE, DecodingOptions(PREFIX_BEAM, grammar=grammar, grammar_threshold=math.inf))
    texts = []
    for words in ((), (HotWord("c", 40.0), HotWord("d", 40.0))):
        stream = recognizer.create_stream(4, 4, hot_words=[HotWord("b", 1.0)])
        stream.accept_waveform(speak("a"))
        stream.set_hot_words(words)
        stream.accept_waveform(speak("b"))
        stream.finish()
        texts.append(stream.text)
    assert texts == ["a b", "a c"]


class WithGrammar(NamedTuple):
    """Creates streams with a grammar."""

    recognizer: Recognizer
    grammar: Grammar

    def create_stream(self, chunk: int | None) -> Stream:
        return self.recognizer.create_stream(chunk, grammar=self.grammar)


def test_an_engine_decodes_streams_with_different_grammars() -> None:
    recognizer = Recognizer(SURE, DecodingOptions(PREFIX_BEAM))
    with Engine(recognizer.model) as engine:
        clients = [Client(engine, WithGrammar(recognizer, Grammar(text))) for text in ("a b", "a c")]
        for client in clients:
            client.say(speak("a b"))
        texts = [client.wait().text for client in clients]
    assert texts == ["a b", ""]


def test_messages() -> None:
    with pytest.raises(ValueError, match="ctc_greedy_search keeps a single hypothesis, so grammars have no effect"):
        Recognizer(SURE, DecodingOptions(GREEDY, grammar=LIGHTS))
    with pytest.raises(ValueError, match="ctc_greedy_search keeps a single hypothesis, so grammars have no effect"):
        Recognizer(SURE, DecodingOptions(GREEDY)).create_stream(grammar=LIGHTS)
    with pytest.raises(ValueError, match="grammar:2: the model cannot spell 'e': no token is 'e'"):
        Recognizer(SURE, DecodingOptions(grammar=Grammar("a\ne")))
    for threshold in (0.0, -1.0, math.nan, 1e9):
        with pytest.raises(ValueError, match="grammar_threshold must be positive and at most 1000"):
            DecodingOptions(grammar_threshold=threshold)
