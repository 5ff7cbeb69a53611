"""Messages of WeNet's protocol: parsing, errors, results."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.runtime.fake_model import SAMPLE_RATE, make_model, speak
from wenet_fusion_runtime import DecodingOptions, HotWord, Recognizer
from wenet_fusion_runtime.results.result import Result, Word
from wenet_fusion_runtime.server.errors import ClientError, Reason
from wenet_fusion_runtime.server.session_options import SAMPLE_FORMATS, SessionOptions
from wenet_fusion_runtime.server.websocket import protocol
from wenet_fusion_runtime.server.websocket.protocol import (
    EndSignal,
    SampleReader,
    parse_signal,
    sample_bytes,
)
from wenet_fusion_runtime.server.websocket.result_messages import ResultMessages
from wenet_fusion_runtime.stream.endpoints import EndpointRules

RULES = EndpointRules(rule1_seconds=5.0, rule2_seconds=1.2)


def said(**record: object) -> str:
    return json.dumps(record)


def error_of(text: str) -> ClientError:
    with pytest.raises(ClientError) as caught:
        parse_signal(text, RULES)
    return caught.value


def test_signals_of_wenets_clients() -> None:
    start = parse_signal('{"signal":"start","nbest":3,"continuous_decoding":true}', RULES)
    assert start == SessionOptions(nbest=3, continuous_decoding=True)
    assert parse_signal('{"signal":"start"}', RULES) == SessionOptions(1, False, 16000, "int16", timestamps=False)
    assert parse_signal('{"signal":"end"}', RULES) == EndSignal()


@pytest.mark.parametrize(
    "text, message",
    [
        ("[]", "Wrong protocol"),
        ("3", "Wrong protocol"),
        ("null", "Wrong protocol"),
        ("{}", "Wrong message header"),
        ('{"nbest":1}', "Wrong message header"),
        ('{"signal":"stop"}', "Unexpected signal type"),
        ('{"signal":7}', "Unexpected signal type"),
        ('{"signal":["start"]}', "Unexpected signal type"),
        ('{"signal":"start","nbest":"1"}', "integer is expected for nbest option"),
        ('{"signal":"start","nbest":1.5}', "integer is expected for nbest option"),
        ('{"signal":"start","nbest":true}', "integer is expected for nbest option"),
        (
            '{"signal":"start","continuous_decoding":1}',
            "boolean true or false is expected for continuous_decoding option",
        ),
    ],
)
def test_mistakes_have_the_texts_of_wenets_server(text: str, message: str) -> None:
    assert error_of(text).message == message and error_of(text).close_code == 1000


@pytest.mark.parametrize("text", ["", "{", "\x00", "{'signal':'start'}", "[" * 100000, '{"signal":' + "9" * 5000 + "}"])
def test_messages_that_are_not_json_are_refused(text: str) -> None:
    assert error_of(text).message.startswith(("Wrong protocol: a text message is not JSON", "Unexpected signal type"))


def test_extensions() -> None:
    start = parse_signal(
        said(
            signal="start",
            sample_rate=8000,
            format="float32",
            chunk=4,
            left=2,
            timestamps=True,
            hot_words=[{"phrase": "Anna", "boost": 2}, {"phrase": "Otto"}],
            endpoint={"rule1_seconds": None, "rule3_seconds": 7},
        ),
        RULES,
    )
    assert start == SessionOptions(
        1,
        False,
        8000,
        "float32",
        4,
        2,
        (HotWord("Anna", 2.0), HotWord("Otto")),
        EndpointRules(rule1_seconds=None, rule2_seconds=1.2, rule3_seconds=7.0),
        True,
    )
    assert parse_signal(said(signal="start", chunk=None, left=None, endpoint=None), RULES) == SessionOptions()
    smallest = parse_signal(said(signal="start", chunk=1, left=0, nbest=1, sample_rate=4000), RULES)
    assert smallest == SessionOptions(chunk=1, left=0, sample_rate=4000)


@pytest.mark.parametrize(
    "key, value, parts",
    [
        ("sample_rate", "16000", ["an integer from 4000 to 384000", '"16000"']),
        ("sample_rate", 16000.0, ["an integer"]),
        ("sample_rate", 0, ["found 0"]),
        ("sample_rate", 10**9, ["to 384000"]),
        ("format", "mp3", ["one of int16, float32", '"mp3"']),
        ("format", None, ["null"]),
        ("format", [], ["[]"]),
        ("chunk", 0, ["an integer from 1", "found 0"]),
        ("chunk", "4", ['"4"']),
        ("left", -1, ["found -1"]),
        ("nbest", 0, ["an integer from 1 to 1000", "found 0"]),
        ("nbest", -3, ["found -3"]),
        ("timestamps", "yes", ["true or false", '"yes"']),
        ("hot_words", "Anna", ["a list of at most 1000 objects", '"Anna"']),
        ("hot_words", ["Anna"], ["objects", '"Anna"']),
        ("hot_words", [{"phrase": 3}], ["phrase", "found 3"]),
        ("hot_words", [{}], ["phrase", "null"]),
        ("hot_words", [{"phrase": "a", "boost": "x"}], ["boost", '"x"']),
        ("hot_words", [{"phrase": "a", "score": 1}], ["objects", "score"]),
        ("hot_words", [{"phrase": "a" * 201}], ["at most 200 characters"]),
        ("hot_words", [{"phrase": "a"}] * 1001, ["at most 1000"]),
        ("hot_words", [{"phrase": "a" * 200}] * 101, ["20000 characters in all", "20200"]),
        ("endpoint", 3, ["an object with keys among rule1_seconds"]),
        ("endpoint", {"rule9": 1}, ["rule9", "rule1_seconds"]),
        ("endpoint", {"rule1_seconds": "2"}, ["rule1_seconds", "a number or null"]),
        ("endpoint", {"rule3_seconds": None}, ["rule3_seconds", "a number"]),
        ("endpoint", {"rule2_seconds": -1}, ["rule2_seconds must be positive", "-1"]),
        ("endpoint", {"rule2_seconds": 1e308}, ["rule2_seconds must be a number of at most 1e+07"]),
        ("endpoint", {"rule3_seconds": 10**400}, ["rule3_seconds must be a number of at most 1e+07"]),
        ("language", "en", ["unknown key 'language'", "sample_rate", "hot_words", "format"]),
    ],
)
def test_wrong_extensions_are_named_with_their_value_and_remedy(key: str, value: object, parts: list[str]) -> None:
    found = error_of(said(signal="start", **{key: value}))
    assert found.reason is Reason.OPTION and all(part in found.message for part in [key, *parts]), found.message
    assert len(found.message) < 400


def test_a_boost_of_hundreds_of_digits_is_infinite() -> None:
    """The later check of hot words reports it like any invalid boost."""
    for boost, expected in ((10**400, math.inf), (-(10**400), -math.inf)):
        start = parse_signal(said(signal="start", hot_words=[{"phrase": "a", "boost": boost}]), RULES)
        assert start.hot_words == (HotWord("a", expected),)


def test_a_refusal_can_always_be_sent() -> None:
    """JSON allows half a surrogate pair, UTF-8 does not."""
    for text in (r'{"signal":"start","\ud800":1}', r'{"signal":"start","format":"\ud800"}'):
        found = error_of(text)
        assert r"\ud800" in found.message and protocol.failed(found.message).encode()


def test_start_signals_are_read_as_they_are_written() -> None:
    for options in (
        SessionOptions(),
        SessionOptions(
            nbest=5,
            continuous_decoding=True,
            sample_rate=44100,
            sample_format="float32",
            chunk=8,
            left=1,
            hot_words=(HotWord("ä", -2.0),),
            endpoint=RULES,
            timestamps=True,
        ),
    ):
        assert parse_signal(protocol.start_signal(options), RULES) == options
    assert protocol.start_signal(SessionOptions()) == '{"signal":"start","nbest":1,"continuous_decoding":false}'
    some = protocol.start_signal(SessionOptions(), {"rule1_seconds": None, "rule2_seconds": 0.5})
    assert some.endswith('"endpoint":{"rule1_seconds":null,"rule2_seconds":0.5}}')
    assert parse_signal(some, RULES).endpoint == replace(RULES, rule1_seconds=None, rule2_seconds=0.5)
    assert parse_signal(protocol.end_signal(), RULES) == EndSignal()


@given(data=st.binary(max_size=60), cuts=st.lists(st.integers(0, 60), max_size=8), form=st.sampled_from(SAMPLE_FORMATS))
def test_samples_do_not_depend_on_how_messages_are_cut(data: bytes, cuts: list[int], form: str) -> None:
    dtype = {"int16": "<i2", "float32": "<f4"}[form]
    size = np.dtype(dtype).itemsize
    whole = np.frombuffer(data[: len(data) // size * size], dtype)
    reader, edges = SampleReader(form), [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    parts = [reader.read(data[start:stop]) for start, stop in itertools.pairwise(edges)]
    assert np.concatenate(parts).tobytes() == whole.tobytes()


def test_a_reader_that_forgets_odd_bytes_is_caught() -> None:
    class Forgetful(SampleReader):
        def read(self, message: bytes) -> np.ndarray:
            self._rest = b""
            return super().read(message)

    with pytest.raises(AssertionError):
        data = bytes(range(10))
        reader = Forgetful("int16")
        assert np.concatenate([reader.read(data[:3]), reader.read(data[3:])]).tobytes() == data


def test_float_samples_become_16_bits() -> None:
    samples = np.array([0.0, 0.5, -1.0, 1.0, 2.0, 1 / 32768], np.float32)
    assert SampleReader("int16").read(sample_bytes(samples, "int16")).tolist() == [0, 16384, -32768, 32767, 32767, 1]
    assert SampleReader("float32").read(sample_bytes(samples, "float32")).tolist() == samples.tolist()


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer(make_model(), DecodingOptions(endpoint=EndpointRules()))


def test_results_are_written_byte_by_byte_as_wenets_server_writes_them(recognizer: Recognizer) -> None:
    stream = recognizer.create_stream()
    assert stream.accept_waveform(speak("ab"), SAMPLE_RATE) == []
    assert ResultMessages(SessionOptions(), recognizer.model.meta).partial(stream.result) == (
        r'{"status":"ok","type":"partial_result","nbest":"[{\"sentence\":\"a b\"}]"}'
    )
    (final,) = stream.finish()
    assert ResultMessages(SessionOptions(), recognizer.model.meta).final(final) == (
        r'{"status":"ok","type":"final_result","nbest":"[{\"sentence\":\"a b\",\"word_pieces\":['
        r'{\"word\":\"a\",\"start\":80,\"end\":120},{\"word\":\"b\",\"start\":280,\"end\":320}]}]"}'
    )
    assert protocol.server_ready() == '{"status":"ok","type":"server_ready"}'
    assert protocol.speech_end() == '{"status":"ok","type":"speech_end"}'
    assert protocol.failed('say "ä"') == r'{"status":"failed","message":"say \"ä\""}'


def test_nbest_has_times_for_every_hypothesis(recognizer: Recognizer) -> None:
    stream = Recognizer(make_model(), DecodingOptions(token_threshold=math.inf)).create_stream()
    assert stream.accept_waveform(speak("abca"), SAMPLE_RATE) == []
    message = json.loads(ResultMessages(SessionOptions(nbest=3), recognizer.model.meta).partial(stream.result))
    nbest = json.loads(message["nbest"])
    assert [list(path) for path in nbest] == [["sentence"]] * 3 and nbest[0]["sentence"] == stream.result.text
    (final,) = stream.finish()
    message = json.loads(ResultMessages(SessionOptions(nbest=3), recognizer.model.meta).final(final))
    nbest = json.loads(message["nbest"])
    assert len(nbest) == 3 and nbest[0]["sentence"] == final.text and len({path["sentence"] for path in nbest}) == 3
    for path in nbest:
        assert [piece["word"] for piece in path["word_pieces"]] == path["sentence"].split()
        times = [time for piece in path["word_pieces"] for time in (piece["start"], piece["end"])]
        assert times == sorted(times) and all(isinstance(time, int) for time in times)


def test_timestamps_are_extra_keys(recognizer: Recognizer) -> None:
    stream = recognizer.create_stream()
    stream.accept_waveform(speak("ab"), SAMPLE_RATE)
    plain, timed = (
        json.loads(ResultMessages(SessionOptions(timestamps=on), recognizer.model.meta).partial(stream.result))
        for on in (False, True)
    )
    assert list(timed) == [*plain, "segment", "start", "end", "endpoint", "words", "committed"]
    assert (timed["segment"], timed["endpoint"], timed["committed"]) == (0, None, 0) and timed["end"] >= 0.32
    assert [word["text"] for word in timed["words"]] == ["a", "b"]
    assert timed["words"][0].keys() == {"text", "start", "end", "confidence", "spaced"}
    (final,) = stream.finish()
    message = json.loads(ResultMessages(SessionOptions(timestamps=True), recognizer.model.meta).final(final))
    assert (message["committed"], message["endpoint"]) == (2, "end_of_audio")


def test_words_that_change_are_written_again(recognizer: Recognizer) -> None:
    word = Word("one", 0.5, 0.8, confidence=0.9)
    result = Result("one", (), (), 0, 0, 0.0, 1.0, (), endpoint=None)
    messages = ResultMessages(SessionOptions(timestamps=True), recognizer.model.meta)
    for words in ((word,), (word, word._replace(confidence=0.5)), (), (word._replace(start_seconds=0.6), word)):
        shown = json.loads(messages.partial(replace(result, words=words)))["words"]
        assert shown == [
            {"text": "one", "start": each.start_seconds, "end": 0.8, "confidence": each.confidence, "spaced": True}
            for each in words
        ]
