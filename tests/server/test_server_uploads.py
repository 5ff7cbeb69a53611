"""Uploads: the texts of `transcribe`, formats, options and errors."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import aiohttp
import numpy as np
import pytest
from support.runtime.audio_zoo import SECONDS
from support.runtime.audio_zoo import encoded as made_by_ffmpeg
from support.runtime.fake_model import SAMPLE_RATE, speak
from support.runtime.server_process import PATIENCE, ServerProcess, encoded, eventually, http, metric
from wenet_fusion_runtime.cli.__main__ import main
from wenet_fusion_runtime.server.http.upload_options import parse_upload_options
from wenet_fusion_runtime.stream.endpoints import EndpointRules


def recording(text: str, form: str = "WAV") -> bytes:
    """Return a stereo file."""
    return encoded(np.stack([speak(text)] * 2, axis=1), SAMPLE_RATE, form)


def post(server: ServerProcess, query: str = "", data: object = None) -> tuple[int, str, str]:
    """Send an upload; return status, content type and body."""
    status, headers, body = asyncio.run(http("POST", f"{server.url}transcribe{query}", data=data))
    return status, headers["Content-Type"], body.decode()


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG"])
def test_a_file_gives_the_text_that_transcribe_gives(
    server: ServerProcess, fake_archive: Path, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "audio"
    path.write_bytes(recording("abcd dcba" * 3, form))
    assert main(["transcribe", str(fake_archive), str(path), "--format", "json"]) == 0
    segments = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    status, kind, body = post(server, data=path.read_bytes())
    found = json.loads(body)
    assert (status, kind, found["status"]) == (200, "application/json; charset=utf-8", "ok")
    assert [{"file": str(path), **segment} for segment in found["segments"]] == segments
    assert found["text"] == " ".join(segment["text"] for segment in segments) and len(found["text"]) > 20
    assert found["seconds"] == pytest.approx(len(speak("abcd dcba" * 3)) / SAMPLE_RATE)


def test_a_channel_can_be_chosen_and_channels_that_cancel_are_refused(server: ServerProcess) -> None:
    opposite = encoded(np.stack([speak("abc"), -speak("abc")], axis=1), SAMPLE_RATE)
    status, _, body = post(server, data=opposite)
    assert (
        status == 400
        and "opposite phases and cancel each other in their mean: choose one" in json.loads(body)["message"]
    )
    for channel in (1, 2):
        status, _, body = post(server, f"?channel={channel}", data=opposite)
        assert status == 200 and json.loads(body)["text"] == "a b c"
    status, _, body = post(server, "?channel=3", data=opposite)
    assert status == 400 and "has 2 channels, there is no channel 3" in json.loads(body)["message"]
    for wrong in ("-1", "33", "left", "1.5"):
        status, _, body = post(server, f"?channel={wrong}", data=opposite)
        assert status == 400 and "channel must be an integer from 0 to 32" in json.loads(body)["message"]


def test_formats_of_the_extra_are_decoded(server: ServerProcess) -> None:
    pytest.importorskip("av")
    status, _, body = post(server, data=made_by_ffmpeg("ipod", "aac", 48000))
    assert status == 200 and json.loads(body)["seconds"] == pytest.approx(SECONDS, abs=0.05)


def test_pauses_do_not_close_segments_of_files(server: ServerProcess) -> None:
    samples = np.concatenate([speak("ab"), np.zeros(2 * SAMPLE_RATE, np.float32), speak("cd")])
    status, _, body = post(server, data=encoded(samples, SAMPLE_RATE))
    assert status == 200 and [segment["text"] for segment in json.loads(body)["segments"]] == ["a b c d"]


@pytest.mark.parametrize("text", ["Anna", '"Anna"', "2026", "null", '["Anna"]'])
def test_a_context_is_plain_text_or_a_text_in_json(text: str) -> None:
    found = parse_upload_options({"context": text}, EndpointRules())
    assert found.session.context == text.strip('"' if text.startswith('"') else "")


def test_a_form_may_carry_the_file_and_options(server: ServerProcess) -> None:
    form = aiohttp.FormData()
    form.add_field("chunk", "4")
    form.add_field("recording", recording("abc"), filename="a.wav", content_type="audio/wav")
    form.add_field("nbest", "2")
    status, _, body = post(server, data=form)
    (segment,) = json.loads(body)["segments"]
    assert status == 200 and segment["text"] == "a b c" and len(segment["hypotheses"]) == 2


@pytest.mark.parametrize(
    "form, kind, expected",
    [
        ("text", "text/plain; charset=utf-8", "a b c\n"),
        ("srt", "application/x-subrip; charset=utf-8", "1\n00:00:00,080 --> "),
        ("vtt", "text/vtt; charset=utf-8", "WEBVTT\n\n00:00:00.080 --> "),
        ("ctm", "text/plain; charset=utf-8", "upload 1 0.080 0.040 a 0.99"),
    ],
)
def test_other_formats(server: ServerProcess, form: str, kind: str, expected: str) -> None:
    status, found_kind, body = post(server, f"?format={form}", recording("abc"))
    assert (status, found_kind) == (200, kind) and body.startswith(expected)


def test_streamed_answers_come_while_it_is_recognised(server: ServerProcess) -> None:
    rules = quote(json.dumps({"rule3_seconds": 1, "rule3_silence_seconds": 0.08}))
    status, kind, body = post(server, f"?stream=true&chunk=4&endpoint={rules}", recording("abcd" * 10))
    *records, last = [json.loads(line) for line in body.splitlines()]
    assert (status, kind) == (200, "application/x-ndjson")
    assert last == {"status": "ok", "text": " ".join("abcd" * 10), "seconds": len(speak("abcd" * 10)) / SAMPLE_RATE}
    finals = [record for record in records if "endpoint" in record]
    assert len(finals) > 5 and " ".join(filter(None, (record["text"] for record in finals))) == last["text"]
    assert all(record.keys() == {"segment", "partial", "committed"} for record in records if "endpoint" not in record)


@pytest.mark.parametrize(
    "query, data, message",
    [
        ("", b"", "the request has no audio"),
        ("", b"no audio at all", "upload: cannot be read as audio"),
        ("?chunk=5", "a", "chunk 5 with left context 4"),
        ("?chunk=x", "a", 'chunk must be an integer from 1 to 1048576, found "x"'),
        ("?format=mp3", "a", "format must be one of text, json, ctm, srt, vtt"),
        ("?stream=1", "a", "stream must be true or false"),
        ("?stream=true&format=srt", "a", "goes with format=json only"),
        ("?sample_rate=8000", "a", "sample_rate does not apply to a file"),
        ("?colour=red", "a", "unknown key 'colour'; the keys are format, stream, nbest, channel"),
        ("?hot_words=[1]", "a", "hot_words must be objects"),
        ("?endpoint={%22rule3_seconds%22:0}", "a", "must be positive"),
    ],
)
def test_wrong_uploads_are_refused_with_a_reason(
    server: ServerProcess, query: str, data: str | bytes, message: str
) -> None:
    status, kind, body = post(server, query, data if isinstance(data, bytes) else recording(data))
    record = json.loads(body)
    assert (status, kind, record["status"]) == (400, "application/json; charset=utf-8", "failed")
    assert message in record["message"], record


def test_a_damaged_file_gives_the_text_before_the_damage(server: ServerProcess) -> None:
    whole = recording("abcd")
    for query in ("", "?stream=true"):
        status, _, body = post(server, query, whole[: round(0.73 * len(whole))])
        record = json.loads(body.splitlines()[-1])
        assert status == (200 if query else 400) and record["status"] == "failed"
        assert record["text"] == "a b c" and "is damaged or ends too early" in record["message"]


def test_broken_forms_are_refused(server: ServerProcess) -> None:
    for kind, body in (
        ("multipart/form-data; boundary=x", b"--y\r\n"),
        ("multipart/form-data", b"abc"),
        ("multipart/form-data; boundary=x", b"--x\r\nbroken"),
    ):
        status, _, answer = asyncio.run(
            http("POST", f"{server.url}transcribe", data=body, headers={"Content-Type": kind})
        )
        assert status == 400 and json.loads(answer)["status"] == "failed", answer


@pytest.mark.parametrize("head", [b"Content-Encoding: gzip\r\nContent-Length: 5", b"Transfer-Encoding: chunked"])
def test_bodies_that_are_not_what_their_header_says_are_refused(server: ServerProcess, head: bytes) -> None:
    async def run() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST /transcribe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + head + b"\r\n\r\nzzzzz\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), PATIENCE)
        writer.close()
        return answer

    assert b" 400 Bad Request\r\n" in asyncio.run(run())
    assert not any("ERROR" in line for line in server.log), server.log


@pytest.mark.parametrize("fields", [1, 10], ids=["one_field", "fields_of_one_name"])
def test_fields_of_a_form_are_bounded(server: ServerProcess, fields: int) -> None:
    form = aiohttp.FormData()
    for _ in range(fields):
        form.add_field("hot_words", " " * (300_000 // fields))
    form.add_field("file", recording("ab"), filename="a.wav")
    status, _, answer = post(server, data=form)
    assert status == 400 and json.loads(answer)["message"] == (
        "hot_words: the options have more than 163840 bytes in all"
    )


def test_a_form_with_two_files_is_refused(server: ServerProcess) -> None:
    form = aiohttp.FormData()
    for name in ("a.wav", "b.wav"):
        form.add_field("file", recording("ab"), filename=name)
    status, _, answer = post(server, data=form)
    assert status == 400 and "more than one file" in json.loads(answer)["message"]


def test_a_client_with_a_complete_streamed_answer_may_hang_up(server: ServerProcess) -> None:
    async def run() -> None:
        transcribed, vanished = _transcribed(server), await metric(server.url, "vanished_total")
        body = recording("ab")
        head = b"POST /transcribe?stream=true HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        for _ in range(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(head + body)
            await reader.readuntil(b"\r\n0\r\n\r\n")
            writer.transport.abort()
        assert await eventually(lambda: _has_transcribed(server, transcribed + 10))
        assert await eventually(lambda: _is_empty(server)) and await metric(server.url, "vanished_total") == vanished

    asyncio.run(run())


def _transcribed(server: ServerProcess) -> int:
    return sum("/transcribe: transcribed" in line for line in server.log)


async def _has_transcribed(server: ServerProcess, count: int) -> bool:
    return _transcribed(server) == count


def test_an_upload_that_has_begun_is_finished_after_sigterm(fake_archive: Path) -> None:
    """Even if most of it has not arrived yet."""

    async def run(server: ServerProcess) -> tuple[int, bytes]:
        body, begun, stopped = recording("abcd"), asyncio.Event(), asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            begun.set()  # the server has accepted the body
            yield body[:1000]
            await stopped.wait()
            yield body[1000:]

        url = f"{server.url}transcribe?format=text"
        answering = asyncio.ensure_future(http("POST", url, data=slowly(), expect100=True))
        await asyncio.wait_for(begun.wait(), PATIENCE)
        server.stop()
        assert await eventually(lambda: _is_stopping(server))
        stopped.set()
        status, _, text = await answering
        return status, text

    with ServerProcess(fake_archive) as server:
        assert asyncio.run(run(server)) == (200, b"a b c d\n")
        assert server.wait() == 0


async def _is_stopping(server: ServerProcess) -> bool:
    return any("stopping; clients that have 30 s to finish: 1" in line for line in server.log)


def test_an_upload_whose_client_vanishes_leaves_nothing(server: ServerProcess) -> None:
    async def run() -> None:
        opened = await metric(server.url, "sessions_opened_total")
        body = recording("abcd" * 400)
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST /transcribe HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        while await metric(server.url, "sessions_opened_total") == opened:
            await asyncio.sleep(0.01)
        writer.transport.abort()
        assert await eventually(lambda: _is_empty(server))

    asyncio.run(run())


async def _is_empty(server: ServerProcess) -> bool:
    return json.loads((await http("GET", f"{server.url}healthz"))[2])["sessions"] == 0


@pytest.mark.parametrize("end", [b"0\r\n" + b"no trailer\r\n" * 2000, b"zz\r\n", b"4\r\nabcdefgh\r\n"])
def test_a_body_that_breaks_off_ends_at_once(server: ServerProcess, end: bytes) -> None:
    """It does not wait for the deadline of five minutes, although the parser's error comes after the header."""

    async def run() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        head = b"POST /transcribe HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        for piece in (head + b"4\r\nabcd\r\n", end):
            writer.write(piece)
            await asyncio.sleep(0.2)
        try:
            return await asyncio.wait_for(reader.read(1 << 16), PATIENCE)
        finally:
            writer.close()

    answer = asyncio.run(run())
    assert answer.startswith(b"HTTP/1.1 400") and b"the body cannot be read" in answer, answer
