"""The work for each piece of a long answer does not grow with the length of the earlier pieces."""

import json
from typing import Any

import pytest
from support.runtime.fake_model import make_model
from wenet_fusion_runtime.engine.session import Update
from wenet_fusion_runtime.results.result import Result, Token, Word
from wenet_fusion_runtime.search.modes import PREFIX_BEAM
from wenet_fusion_runtime.server.openai.prompt_words import PromptWords
from wenet_fusion_runtime.server.openai.realtime_items import ItemEvents
from wenet_fusion_runtime.server.openai.transcription_answer import TranscriptionsRoute
from wenet_fusion_runtime.server.settings import SERVER_OPTIONS
from wenet_fusion_runtime.stream.endpoints import Endpoint

META = make_model().meta
SEGMENTS, LENGTH = 30, 10
TEXT = " ".join("abcd"[number % 4] for number in range(LENGTH))
reads: list[str] = []


class CountedWord(Word):
    """Counts how often a word is read."""

    def __getattribute__(self, name: str) -> Any:
        reads.append(name)
        return super().__getattribute__(name)


class CountedResult(Result):
    """Counts how often a result is read."""

    def __getattribute__(self, name: str) -> Any:
        reads.append(name)
        return super().__getattribute__(name)


def segment(number: int, is_closed: bool) -> Result:
    tokens = tuple(Token(3 + index % 4, "abcd"[index % 4], 0.0, 0.1, 0.9) for index in range(LENGTH))
    words = tuple(CountedWord(token.text, 0.0, 0.1, 0.9) for token in tokens)
    endpoint = next(iter(Endpoint)) if is_closed else None
    return CountedResult(TEXT, tokens, words, LENGTH // 2, number, 0.0, 1.0, (), endpoint)


def test_realtime_updates_read_the_open_segment_only() -> None:
    items = ItemEvents(META.vocabulary)
    items.begin(detects_turns=False, offset_seconds=0.0)
    counts, deltas = [], ""
    for number in range(SEGMENTS):
        reads.clear()
        update = Update((segment(number, True),), segment(number + 1, False))
        events = [json.loads(event) for event in items.update(update)]
        counts.append(len(reads))
        deltas += "".join(event["delta"] for event in events)
    half = " ".join(TEXT.split()[: LENGTH // 2])
    assert deltas == " ".join([TEXT] * SEGMENTS + [half])
    assert max(counts) <= 2 * counts[0]


@pytest.mark.parametrize("include", [(), (("include[]", "logprobs"),)])
def test_streamed_transcriptions_read_new_segments_only(include: tuple[tuple[str, str], ...]) -> None:
    route = TranscriptionsRoute(META, SERVER_OPTIONS.endpoint, PromptWords(META.vocabulary, PREFIX_BEAM))
    answer = route.read([("stream", "true"), *include])
    counts, deltas = [], ""
    for number in range(SEGMENTS):
        reads.clear()
        piece = answer.piece((segment(number, True),), None)
        counts.append(len(reads))
        deltas += json.loads(piece.removeprefix("data: "))["delta"]
        reads.clear()
        assert answer.piece((), segment(number + 1, False)) == "" and not reads
    assert deltas == " ".join([TEXT] * SEGMENTS)
    assert max(counts) <= 2 * counts[0]
