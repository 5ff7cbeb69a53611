"""Events of realtime items from the results of streams: any letters, any pauses, any cuts."""

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from support.runtime.fake_model import SAMPLE_RATE, make_model, speak
from wenet_fusion_runtime import Recognizer
from wenet_fusion_runtime.engine.session import Update
from wenet_fusion_runtime.server.openai.realtime_items import ItemEvents
from wenet_fusion_runtime.server.settings import SERVER_OPTIONS

MODEL = make_model()
DELTA, COMPLETED = (f"conversation.item.input_audio_transcription.{kind}" for kind in ("delta", "completed"))
STARTED, STOPPED = "input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped"


def updates(recognizer: Recognizer, samples: np.ndarray, rng: np.random.Generator) -> Iterator[Update]:
    """The updates of a session."""
    stream, position = recognizer.create_stream(), 0
    while position < len(samples):
        size = int(rng.integers(1, 2 * SAMPLE_RATE))
        finals = stream.accept_waveform(samples[position : position + size])
        position += size
        yield Update(tuple(finals), stream.result)
    yield Update(tuple(stream.finish()), is_last=True)


@pytest.mark.parametrize("is_formatted", [False, True])
@pytest.mark.parametrize("detects_turns", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_deltas_join_to_transcripts(seed: int, detects_turns: bool, is_formatted: bool) -> None:
    rng = np.random.default_rng(seed)
    rules = replace(SERVER_OPTIONS.endpoint, rule2_seconds=0.6 if detects_turns else None, rule3_seconds=4.0)
    formatter = str.upper if is_formatted else None
    recognizer = Recognizer(MODEL, replace(SERVER_OPTIONS, endpoint=rules, formatter=formatter))
    parts = []
    for _ in range(6):
        letters = "".join(rng.choice(list("abcd"), rng.integers(1, 12)))
        parts += [speak(letters), np.zeros(int(rng.uniform(0.1, 1.5) * SAMPLE_RATE), np.float32)]
    samples, offset = np.concatenate(parts), float(rng.uniform(0, 100))
    items, events, texts = ItemEvents(MODEL.meta.vocabulary), [], []
    items.begin(detects_turns, offset)
    for update in updates(recognizer, samples, rng):
        texts += [result.text for result in update.finals if result.text]
        events += [json.loads(event) for event in items.update(update)]
    if not detects_turns:
        assert items.is_open
        events += [json.loads(event) for event in items.commit(len(samples) / SAMPLE_RATE)]
    assert not items.is_open

    completed = [event for event in events if event["type"] == COMPLETED]
    assert [event["transcript"] for event in completed] == (texts if detects_turns else [" ".join(texts)])
    previous = 1000 * offset
    for event in completed:
        own = [other for other in events if event["item_id"] in (other.get("item_id"), other.get("item", {}).get("id"))]
        deltas = "".join(other["delta"] for other in own if other["type"] == DELTA)
        assert deltas == event["transcript"].lower() and own[-1] == event
        begins = [other for other in own if other["type"] == STARTED]
        ends = [other for other in own if other["type"] == STOPPED]
        assert len(begins) == len(ends) == detects_turns and (begins == [] or own[0] == begins[0])
        for begin, end in zip(begins, ends):
            assert previous <= begin["audio_start_ms"] < end["audio_end_ms"] <= 1000 * (offset + 200)
            previous = begin["audio_start_ms"]
    assert len({event["event_id"] for event in events}) == len(events)
