"""Options of realtime sessions: their endpoint rules and records."""

from dataclasses import replace

import pytest
from wenet_fusion_runtime.server.errors import ClientError
from wenet_fusion_runtime.server.openai.realtime_options import RealtimeOptions
from wenet_fusion_runtime.server.settings import SERVER_OPTIONS
from wenet_fusion_runtime.stream.endpoints import EndpointRules

RULES = replace(SERVER_OPTIONS.endpoint, complete_probability=0.8)


def changed(options: RealtimeOptions = RealtimeOptions(), **changes: object) -> RealtimeOptions:
    return options.updated({"type": "transcription", "audio": {"input": changes}})


def rules_of(options: RealtimeOptions) -> EndpointRules:
    found = options.session_options(RULES).endpoint
    assert found is not None
    return found


def test_turns_are_endpoint_rules() -> None:
    assert rules_of(RealtimeOptions()) == RULES
    assert rules_of(changed(turn_detection={"type": "server_vad"})) == RULES
    manual = replace(RULES, rule1_seconds=None, rule2_seconds=None, complete_probability=None)
    assert rules_of(changed(turn_detection=None)) == manual
    quick = changed(turn_detection={"silence_duration_ms": 350, "threshold": 0.5, "prefix_padding_ms": 600})
    assert rules_of(quick) == replace(RULES, rule2_seconds=0.35)
    for eagerness, seconds in (("low", 8.0), ("medium", 4.0), ("high", 2.0)):
        semantic = changed(quick, turn_detection={"type": "semantic_vad", "eagerness": eagerness})
        assert rules_of(semantic) == replace(RULES, rule2_seconds=seconds)
        bare = replace(RULES, complete_probability=None)
        assert semantic.session_options(bare).endpoint == replace(bare, rule2_seconds=seconds, complete_probability=0.5)
        assert semantic.record(RULES)["audio"]["input"]["turn_detection"]["eagerness"] == eagerness
    assert rules_of(changed(semantic, turn_detection={"type": "server_vad"})) == RULES


def test_what_an_update_leaves_out_stays() -> None:
    options = changed(
        format={"type": "audio/pcm", "rate": 16000}, transcription={"prompt": "Anna", "language": "en", "model": "m"}
    )
    options = changed(options, transcription={"language": None, "keywords": ["Otto"]}, noise_reduction=None)
    assert (options.sample_rate, options.prompt, options.language, options.model) == (16000, "Anna", None, "m")
    assert options.keywords == ("Otto",) and options.detects_turns
    assert changed(options, transcription={"prompt": None}).prompt == ""
    assert changed(options, format={"type": "audio/pcmu"}).sample_rate == 8000
    assert changed(options) == options == options.updated({})


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"turn_detection": {"type": "psychic"}}, "turn_detection.type must be server_vad or semantic_vad"),
        ({"turn_detection": {"type": "semantic_vad", "eagerness": ["low"]}}, "eagerness must be one of low"),
        ({"turn_detection": {"silence_duration_ms": 0}}, "silence_duration_ms must be an integer from 1"),
        ({"turn_detection": {"silence_duration_ms": True}}, "silence_duration_ms must be an integer from 1"),
        ({"turn_detection": 1}, "turn_detection must be an object"),
        ({"format": {"type": ["audio/pcm"]}}, "format.type must be one of audio/pcm"),
        ({"format": {"rate": 10**400}}, "format.rate must be an integer from 4000 to 384000"),
        ({"format": {"rate": "1" * 100_000}}, "format.rate must be an integer from 4000 to 384000"),
        ({"transcription": {"prompt": "x" * 4001}}, "prompt must be a text of at most 4000 characters"),
        ({"transcription": {"prompt": "\ud800"}}, "prompt must be a text of at most 4000 characters"),
        ({"transcription": {"keywords": "Anna"}}, "keywords must be a list"),
        ({"transcription": {"keywords": [1]}}, "keywords must be a text"),
        ({"transcription": {"modle": "x"}}, "transcription has the unknown key 'modle'"),
    ],
)
def test_wrong_values_are_refused_in_short(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(ClientError) as caught:
        changed(**changes)
    assert problem in caught.value.message and len(caught.value.message) < 400
