"""Uploads in OpenAI's protocol, sent by the official client where it is installed."""

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from support.runtime.fake_model import SAMPLE_RATE, save_archive, speak
from support.runtime.server_process import ServerProcess, encoded, http

openai = pytest.importorskip("openai")

TEXT = "a b c d"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("openai")
    (folder / "token").write_text("s3cret\n")
    flags = ("--token_file", folder / "token", "--max_upload_bytes", 300_000, "--mode", "ctc_prefix_beam_search")
    with ServerProcess(save_archive(folder / "model.zip"), *flags) as started:
        yield started


def client(server: ServerProcess, key: str = "s3cret") -> Any:
    return openai.OpenAI(api_key=key, base_url=f"{server.url}v1", max_retries=0)


def recording(text: str = "abcd", pause: float = 0.0) -> tuple[str, io.BytesIO]:
    samples = np.concatenate([speak(text), np.zeros(round(pause * SAMPLE_RATE), np.float32), speak(text)])
    return "audio.wav", io.BytesIO(encoded(samples if pause else speak(text), SAMPLE_RATE))


def create(server: ServerProcess, **options: Any) -> Any:
    options = {"file": recording(), "model": "whisper-1"} | options
    return client(server).audio.transcriptions.create(**options)


def raw(server: ServerProcess, path: str = "audio/transcriptions", **fields: str) -> tuple[int, Any]:
    form = aiohttp.FormData()
    for name, value in fields.items():
        form.add_field(name, value)
    form.add_field("file", recording()[1].getvalue(), filename="a.wav")
    bearer = {"Authorization": "Bearer s3cret"}
    status, _, body = asyncio.run(http("POST", f"{server.url}v1/{path}", data=form, headers=bearer))
    return status, json.loads(body)


def test_the_official_client_gets_each_format(server: ServerProcess) -> None:
    assert create(server).text == TEXT
    assert create(server, response_format="text") == f"{TEXT}\n"
    srt, vtt = create(server, response_format="srt"), create(server, response_format="vtt")
    assert srt.startswith("1\n00:00:00,") and f"\n{TEXT}\n" in srt
    assert vtt.startswith("WEBVTT\n\n00:00:00.") and f"\n{TEXT}\n" in vtt
    assert create(server, language="en", temperature=0.2, prompt="d c b a", chunking_strategy="auto").text == TEXT


def test_details_are_the_words_and_segments_of_transcribe(server: ServerProcess) -> None:
    seconds, rules = len(speak("abcd")) / SAMPLE_RATE, json.dumps({"rule2_seconds": 0.5})
    options = {"response_format": "verbose_json", "extra_body": {"endpoint": rules}, "language": "en"}
    both = ["word", "segment"]
    found = create(server, file=recording("abcd", pause=2.0), timestamp_granularities=both, **options)
    assert (found.text, found.language) == (f"{TEXT} {TEXT}", "en")
    assert found.duration == pytest.approx(2 * seconds + 2.0, abs=0.001)
    assert [word.word for word in found.words] == found.text.split()
    assert [segment.text for segment in found.segments] == [TEXT, TEXT] and [s.id for s in found.segments] == [0, 1]
    for segment, words in zip(found.segments, (found.words[:4], found.words[4:])):
        assert (segment.start, segment.end) == (words[0].start, words[-1].end)
        assert len(segment.tokens) == 4 and segment.avg_logprob <= 0 and segment.compression_ratio > 0
    assert found.words[4].start > seconds + 2.0 - 0.2
    found = create(server, response_format="verbose_json")
    assert found.words is None and len(found.segments) == 1 and found.language == "unknown"
    assert create(server, response_format="verbose_json", timestamp_granularities=["word"]).segments is None


def test_streamed_deltas_join_to_the_text(server: ServerProcess) -> None:
    rules = json.dumps({"rule2_seconds": 0.5})
    options = {"file": recording("abcd", pause=2.0), "extra_body": {"endpoint": rules}, "include": ["logprobs"]}
    events = list(create(server, stream=True, **options))
    deltas = [event for event in events if event.type == "transcript.text.delta"]
    assert [event.delta for event in deltas] == [TEXT, f" {TEXT}"]
    done = events[-1]
    assert done.type == "transcript.text.done" and done.text == "".join(event.delta for event in deltas)
    assert [entry.token for entry in done.logprobs] == done.text.split()
    assert all(entry.logprob <= 0 for entry in done.logprobs)


def test_words_of_the_prompt_become_hot_words(server: ServerProcess) -> None:
    """The loudness is nearer to a than to b; a prompt has the same effect as hot words with its phrases."""
    file = encoded((np.sign(speak("aaaa")) * 0.27).astype(np.float32), SAMPLE_RATE)

    def text(**options: Any) -> str:
        return create(server, file=("a.wav", io.BytesIO(file)), **options).text

    plain = text()
    boosted = text(extra_body={"hot_words": '[{"phrase": "b"}]'})
    assert "b" not in plain and "b" in boosted
    for options in ({"prompt": "B."}, {"prompt": "Xylophone, b"}, {"keywords": ["b", "xylophone"]}):
        assert text(**options) == boosted, options
    suppressed = json.dumps([{"phrase": "b", "boost": -5}])
    assert text(prompt="b", extra_body={"hot_words": suppressed}) == plain  # the client's own boost wins


def test_errors_have_openais_form(server: ServerProcess) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        client(server, "wrong").models.list()
    assert caught.value.code == "invalid_api_key" and "a token is needed" in str(caught.value)
    with pytest.raises(openai.BadRequestError, match="response_format must be one of json, text") as caught:
        create(server, response_format="diarized_json")
    assert (caught.value.type, caught.value.code) == ("invalid_request_error", "option")
    with pytest.raises(openai.BadRequestError, match="cannot be read as audio"):
        create(server, file=("a.wav", io.BytesIO(b"RIFF" + bytes(100))))
    with pytest.raises(openai.APIStatusError, match="more than 300000 bytes") as caught:
        create(server, file=("a.wav", io.BytesIO(bytes(400_000))))
    assert caught.value.status_code == 413
    with pytest.raises(openai.NotFoundError, match="the model is model.zip"):
        client(server).models.retrieve("gpt-7")
    for fields, problem in (
        ({"temperature": "hot"}, "temperature must be a number from 0 to 1, found 'hot'"),
        ({"stream": "true", "response_format": "srt"}, "stream=true goes with response_format json or text only"),
        ({"timestamp_granularities[]": "syllable"}, "timestamp_granularities must be one of segment, word"),
        ({"diarize": "1"}, "unknown key 'diarize'; the keys are file, response_format, timestamp"),
        ({"prompt": "x" * 200_000}, "prompt: the options have more than 163840 bytes in all"),
        ({"stream": "perhaps"}, "stream must be one of true, false"),
    ):
        status, record = raw(server, **fields)
        assert status == 400 and problem in record["error"]["message"], record
    status, record = raw(server, "audio/translations")
    assert status == 404 and record["error"]["type"] == "invalid_request_error"


def test_an_error_within_a_stream_reaches_the_client(server: ServerProcess, tmp_path: Path) -> None:
    whole = encoded(np.concatenate([speak("abcd")] * 20), SAMPLE_RATE, "FLAC")
    damaged = whole[: len(whole) * 3 // 4] + bytes(200)
    events = create(server, file=("a.flac", io.BytesIO(damaged)), stream=True)
    with pytest.raises(openai.APIError, match="audio|decod"):
        list(events)


def test_the_model_is_listed(server: ServerProcess) -> None:
    models = client(server).models.list().data
    assert [model.id for model in models] == ["model.zip"]
    assert client(server).models.retrieve("model.zip").owned_by == "wenet_fusion"
