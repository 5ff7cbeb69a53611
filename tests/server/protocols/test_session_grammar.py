"""A grammar in the start signal or the options of an upload: parsing, limits and effect."""

import asyncio
import json
import time

import pytest
from support.runtime.fake_model import SAMPLE_RATE, make_model, speak
from wenet_fusion_runtime import DecodingOptions, Engine, Grammar, Recognizer
from wenet_fusion_runtime.server.errors import ClientError
from wenet_fusion_runtime.server.http.upload_options import parse_upload_options
from wenet_fusion_runtime.server.limits import Limits
from wenet_fusion_runtime.server.service import Service
from wenet_fusion_runtime.server.session_options import SessionOptions
from wenet_fusion_runtime.server.websocket import protocol
from wenet_fusion_runtime.server.websocket.protocol import parse_signal
from wenet_fusion_runtime.stream.endpoints import EndpointRules

RULES = EndpointRules()
JSGF = "#JSGF V1.0; public <s> = a (b | c);"


def parse(grammar: object) -> SessionOptions:
    found = parse_signal(json.dumps({"signal": "start", "grammar": grammar}), RULES)
    assert isinstance(found, SessionOptions)
    return found


def test_a_grammar_is_a_text_or_a_list() -> None:
    for given, expected in (("a b\nc", "a b\nc"), (["a b", "c\nd"], "a b\nc d"), (JSGF, JSGF)):
        grammar = parse(given).grammar
        assert grammar is not None and grammar.text == expected and grammar.is_bounded
    assert parse(None).grammar is None


def test_a_client_sends_its_grammar() -> None:
    sent = protocol.start_signal(SessionOptions(grammar=Grammar(JSGF, "file.jsgf")))
    found = parse_signal(sent, RULES)
    assert isinstance(found, SessionOptions) and found.grammar is not None and found.grammar.text == JSGF
    assert "grammar" not in json.loads(protocol.start_signal(SessionOptions()))


@pytest.mark.parametrize(
    "grammar, message",
    [
        (3, "grammar must be a list of phrases, or a text, of at most 10000 characters, found 3"),
        ([["a"]], "grammar must be a list of phrases"),
        ("a" * 10001, "of at most 10000 characters"),
        (["a" * 9000, "b" * 1000], "of at most 10000 characters"),
        ("a" + "\u0301" * 31, "at most 30 combining marks in a row"),
        ([], "grammar:1: the grammar is empty; write one phrase per line"),
        ("#JSGF V1.0; public <a> = b", "grammar:1: rule <a> is not terminated"),
    ],
)
def test_invalid_grammars(grammar: object, message: str) -> None:
    with pytest.raises(ClientError) as caught:
        parse(grammar)
    assert message in str(caught.value.message) and len(caught.value.message) < 500


def test_uploads_take_grammars_as_text_or_json() -> None:
    for text, expected in (("a b", "a b"), ('["a b", "c"]', "a b\nc"), ("42", "42"), (JSGF, JSGF)):
        grammar = parse_upload_options({"grammar": text}, RULES).session.grammar
        assert grammar is not None and grammar.text == expected


def doubled(times: int) -> str:
    return (
        "#JSGF V1.0; public <s> = <r0>;"
        + "".join(f"<r{n}> = <r{n + 1}> <r{n + 1}>;" for n in range(times))
        + (f"<r{times}> = a;")
    )


@pytest.mark.parametrize(
    "grammar, message",
    [
        (doubled(60), "the grammar is too large: with every rule written out it has more than 10000 states"),
        ("#JSGF V1.0; public <s> = (a | b)* a " + "(a | b) " * 200 + ";", "too large or too ambiguous"),
        ("#JSGF V1.0; public <s> = " + "[a] [b] " * 600 + ";", "too large or too ambiguous"),
        ("a\n" * 4000 + "e", "grammar:4001: the model cannot spell 'e'"),
    ],
)
def test_a_hostile_grammar_is_refused_soon(grammar: str, message: str) -> None:
    async def opened() -> None:
        recognizer = Recognizer(make_model(), DecodingOptions())
        with Engine(recognizer.model) as engine:
            await Service(recognizer, engine, Limits()).open(parse(grammar))

    start = time.process_time()
    with pytest.raises(ClientError) as caught:
        asyncio.run(opened())
    assert message in caught.value.message and time.process_time() - start < 10


def test_sessions_have_grammars_of_their_own() -> None:
    async def texts() -> list[str]:
        recognizer, found = Recognizer(make_model(), DecodingOptions(grammar=Grammar("a b"))), []
        with Engine(recognizer.model) as engine:
            service = Service(recognizer, engine, Limits())
            for grammar in (None, "a c", JSGF):
                session = await service.open(parse(grammar))
                await session.push(speak("a b"), SAMPLE_RATE)
                session.end()
                found.append(" ".join([final.text async for update in session.updates() for final in update.finals]))
        return found

    assert asyncio.run(texts()) == ["a b", "", "a b"]
