"""Formatters of closed segments: loading by name, and failures that never lose the text."""

import importlib.util
import json
import logging
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from support.runtime.fake_model import FRAME, SAMPLE_RATE, make_model, save_model, speak
from wenet_fusion_runtime import DecodingOptions, EndpointRules, Recognizer, load_formatter
from wenet_fusion_runtime.cli.__main__ import main
from wenet_fusion_runtime.results.formatters import SafeFormatter
from wenet_fusion_runtime.search.modes import GREEDY
from wenet_fusion_runtime.server.http.upload_answer import joined_text
from wenet_fusion_runtime.server.session_options import SessionOptions
from wenet_fusion_runtime.server.websocket.result_messages import ResultMessages

MODEL = make_model()
SHORT = EndpointRules(None, 0.2)
SAMPLES = np.concatenate([speak("ab"), np.zeros(12 * FRAME, np.float32), speak("cd")])


def run(formatter: Any) -> Any:
    stream = Recognizer(MODEL, DecodingOptions(GREEDY, endpoint=SHORT, formatter=formatter)).create_stream()
    return [result for result in stream.accept_waveform(SAMPLES) + stream.finish() if result.tokens], stream


def fail(text: str) -> str:
    raise KeyError(text)


def test_closed_segments_are_formatted_and_words_are_not() -> None:
    results, stream = run(lambda text: text.upper() + ".")
    assert [result.text for result in results] == ["A B.", "C D."] and stream.text == "A B. C D."
    assert [[word.text for word in result.words] for result in results] == [["a", "b"], ["c", "d"]]
    assert joined_text(results, MODEL.meta.vocabulary) == "A B. C D."
    message = json.loads(ResultMessages(SessionOptions(timestamps=True), MODEL.meta).final(results[0]))
    assert json.loads(message["nbest"])[0]["sentence"] == "A B."
    assert [word["text"] for word in message["words"]] == ["a", "b"]


def test_the_open_segment_is_as_it_was_recognised() -> None:
    stream = Recognizer(MODEL, DecodingOptions(GREEDY, formatter=str.upper)).create_stream()
    stream.accept_waveform(speak("abab"))
    assert stream.text == stream.result.text and stream.text and stream.text.islower()


@pytest.mark.parametrize(
    "formatter, problem",
    [
        (fail, "KeyError: 'a b'"),
        (lambda text: None, "it returned NoneType"),
        (lambda text: " ", "it returned an empty text"),
    ],
)
def test_a_failing_formatter_costs_one_warning_and_no_text(
    formatter: Any, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        results, stream = run(formatter)
    assert [result.text for result in results] == ["a b", "c d"] and stream.text == "a b c d"
    (record,) = caplog.records
    assert problem in record.getMessage() and record.levelno == logging.WARNING


def test_streams_of_one_recognizer_share_the_warning(caplog: pytest.LogCaptureFixture) -> None:
    recognizer = Recognizer(MODEL, DecodingOptions(GREEDY, formatter=fail))
    for _ in range(2):
        stream = recognizer.create_stream(endpoint=SHORT)
        stream.accept_waveform(SAMPLES)
        stream.finish()
    assert len(caplog.records) == 1


@given(text=st.text(), returned=st.text() | st.none() | st.integers())
def test_the_text_is_one_line_and_never_lost(text: str, returned: Any) -> None:
    found = SafeFormatter(lambda given: returned)(text)
    expected = " ".join(returned.split()) if isinstance(returned, str) else ""
    assert found == (expected if text and expected else text)


def test_one_call_at_a_time() -> None:
    inside, most = 0, 0

    def slow(text: str) -> str:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        threading.Event().wait(0.01)
        inside -= 1
        return text

    formatter = SafeFormatter(slow)
    threads = [threading.Thread(target=formatter, args=("a",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def module(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:count]), ModuleType(".".join(parts[:count])))
    for member, value in members.items():
        setattr(sys.modules[name], member, value)


def test_libraries_get_lower_case_and_their_language(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def normalizer(**options: Any) -> SimpleNamespace:
        calls.append(options)
        return SimpleNamespace(normalize=lambda text: f"<{text}>", inverse_normalize=lambda text, verbose: f"[{text}]")

    module(monkeypatch, "wetext", Normalizer=normalizer)
    module(
        monkeypatch, "nemo_text_processing.inverse_text_normalization.inverse_normalize", InverseNormalizer=normalizer
    )
    module(monkeypatch, "itn.japanese.inverse_normalizer", InverseNormalizer=normalizer)
    assert load_formatter("wetext")("TWENTY 5") == "<twenty 5>" and load_formatter("wetext:zh")("Zoe") == "<Zoe>"
    assert load_formatter("nemo:de")("ZWEI") == "[zwei]" and load_formatter("itn:ja")("x") == "<x>"
    assert calls == [{"lang": "en", "operator": "itn"}, {"lang": "zh", "operator": "itn"}, {"lang": "de"}, {}]


@pytest.mark.parametrize(
    "name, message",
    [
        ("itn:fr", "the formatter itn has the languages zh, en, ja, found 'fr'"),
        ("numbers", "'numbers' is not a formatter, expected wetext, nemo, itn or a function of yours"),
        ("textwrap:nothing", "the module textwrap has no function nothing"),
    ],
)
def test_wrong_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_formatter(name)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("wetext", "nemo_text_processing", "itn"):
        monkeypatch.setitem(sys.modules, name, None)
    for name, package in (("wetext", "wetext"), ("nemo", "nemo_text_processing"), ("itn", "WeTextProcessing")):
        with pytest.raises(ImportError, match=f"the formatter {name} needs {package}: pip install {package}"):
            load_formatter(name)
    with pytest.raises(ImportError, match="the formatter 'not_there:x': .*is the module's folder in PYTHONPATH"):
        load_formatter("not_there:x")


def test_the_command_formats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(tmp_path / "model.zip")
    soundfile.write(tmp_path / "a.wav", speak("abc"), SAMPLE_RATE)
    command = ["transcribe", str(tmp_path / "model.zip"), str(tmp_path / "a.wav"), "--formatter"]
    assert main([*command, "string:capwords"]) == 0
    assert capsys.readouterr().out == "A B C\n"
    assert main([*command, "numbers"]) == 1
    assert "'numbers' is not a formatter" in capsys.readouterr().err


@pytest.mark.skipif(
    importlib.util.find_spec("wetext") is None,
    reason="wetext is not installed: pip install -c constraints.txt -e 'runtime[formatter]'",
)
def test_a_library_writes_numbers() -> None:
    assert "$25" in load_formatter("wetext:en")("TWENTY FIVE DOLLARS")
