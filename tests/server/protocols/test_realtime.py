"""OpenAI's realtime protocol: transcription sessions, driven by the official client where it is installed."""

import asyncio
import base64
import io
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace

import aiohttp
import numpy as np
import pytest
import soundfile
from support.runtime.fake_model import SAMPLE_RATE, make_model, save_archive, speak
from support.runtime.realtime_client import COMPLETED, RATE, Realtime, realtime, silence, spoken
from support.runtime.server_process import ServerProcess, eventually, http, pcm
from wenet_fusion_runtime import Recognizer
from wenet_fusion_runtime.server.settings import SERVER_OPTIONS

openai = pytest.importorskip("openai")
pytest.importorskip("websockets", reason="the client's realtime part needs openai[realtime]")

STARTED, STOPPED, COMMITTED = (
    f"input_audio_buffer.{kind}" for kind in ("speech_started", "speech_stopped", "committed")
)
MODE = "ctc_prefix_beam_search"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("realtime")
    (folder / "token").write_text("s3cret\n")
    flags = ("--token_file", folder / "token", "--mode", MODE, "--max_sessions", 4)
    with ServerProcess(save_archive(folder / "model.zip"), *flags) as started:
        yield started


def recognised(samples: np.ndarray, rate: int, pause: float | None) -> list[str]:
    """Texts of the segments that a stream with the server's options finds."""
    rules = replace(SERVER_OPTIONS.endpoint, rule1_seconds=None, rule2_seconds=pause)
    recognizer = Recognizer(make_model(), replace(SERVER_OPTIONS, mode=MODE, endpoint=rules))
    with recognizer.create_stream() as stream:
        stream.accept_waveform(pcm(samples).astype(np.int16), rate)
    return [result.text for result in stream.finals]


def test_the_server_detects_turns(server: ServerProcess) -> None:
    async def run() -> None:
        async with realtime(server) as client:
            created = client.of("session.created")[0].session
            assert created.type == "transcription" and created.audio.input.turn_detection.silence_duration_ms == 1200
            await client.update(turn_detection={"type": "server_vad", "silence_duration_ms": 600, "threshold": 0.5})
            updated = client.of("session.updated")[0].session
            assert updated.id == created.id and created.id.startswith("sess_")
            assert updated.audio.input.turn_detection.silence_duration_ms == 600
            assert (updated.audio.input.format.type, updated.audio.input.format.rate) == ("audio/pcm", RATE)
            audio = [spoken("abc"), silence(1.5), spoken("cba" * 3), silence(1.5)]
            await client.append(np.concatenate(audio))
            first, second = await client.until(COMPLETED), await client.until(COMPLETED)
            found = [first.transcript, second.transcript]
            assert found == recognised(np.concatenate(audio), RATE, pause=0.6) and "b" in found[0] and "c" in found[1]
            assert first.usage.type == "duration" and 0 < first.usage.seconds < len(audio[0]) / RATE + 1.5
            begins = 1000 * np.cumsum([0, *map(len, audio)]) / RATE
            for number, item in enumerate((first.item_id, second.item_id)):
                assert client.deltas(item) == (first, second)[number].transcript
                kinds = [event.type for event in client.events if getattr(event, "item_id", None) == item]
                assert kinds[0] == STARTED and kinds[-3:] == [STOPPED, COMMITTED, COMPLETED]
                started, stopped = client.of(STARTED)[number], client.of(STOPPED)[number]
                assert begins[2 * number] <= started.audio_start_ms < begins[2 * number + 1]
                assert begins[2 * number + 1] < stopped.audio_end_ms < begins[2 * number + 2]
            assert [event.previous_item_id for event in client.of(COMMITTED)] == [None, first.item_id]
            assert [event.item.id for event in client.of("conversation.item.done")] == [first.item_id, second.item_id]

    asyncio.run(run())


@pytest.mark.parametrize("seed", range(2))
def test_commits_cut_the_audio_exactly(server: ServerProcess, seed: int) -> None:
    """For any pieces, each transcript is that of a stream with the audio between two commits."""
    rng = np.random.default_rng(seed)

    async def run() -> None:
        async with realtime(server) as client:
            rate = int(rng.choice([8000, 16000, 24000]))
            await client.update(turn_detection=None, format={"type": "audio/pcm", "rate": rate})
            for _ in range(4):
                text = "".join(rng.choice(list("abc"), rng.integers(1, 12)))
                samples = spoken(text, rate)[: -int(rng.integers(1, 2 * rate // 25))]
                await client.append(samples, piece=int(rng.integers(100, 30_000)))
                await client.connection.input_audio_buffer.commit()
                found = await client.until(COMPLETED)
                assert found.transcript == " ".join(recognised(samples, rate, pause=None))
                assert len(found.transcript) >= len(text)
                assert client.deltas(found.item_id) == found.transcript
            assert client.of(STARTED) == client.of(STOPPED) == [] and len(client.of(COMMITTED)) == 4

    asyncio.run(run())


def test_an_item_of_a_commit_may_be_seconds_long(server: ServerProcess) -> None:
    """The segments that rule 3 closes are one item; times count from the start of the connection."""
    samples = np.concatenate([spoken("abc" * 6, 8000), silence(1.0, 8000)] * 12)  # 55 s

    async def run() -> None:
        async with realtime(server) as client:
            await client.update(turn_detection=None, format={"type": "audio/pcm", "rate": 8000})
            await client.append(samples)
            await client.connection.input_audio_buffer.commit()
            found = await client.until(COMPLETED)
            segments = recognised(samples, 8000, pause=None)
            assert len(segments) > 1 and found.transcript == " ".join(segments) == client.deltas(found.item_id)
            assert len(client.of(COMMITTED)) == 1

    asyncio.run(run())


def test_times_are_connection_times(server: ServerProcess) -> None:
    """Also in the turns after a commit, which come from another stream."""

    async def run() -> None:
        async with realtime(server) as client:
            await client.append(np.concatenate([spoken("ab"), silence(0.4)]))
            await client.connection.input_audio_buffer.commit()
            await client.until(COMPLETED)
            first = len(spoken("ab")) / RATE + 0.4
            await client.append(np.concatenate([silence(1.0), spoken("bc"), silence(2.0)]))
            await client.until(COMPLETED)
            started, stopped = client.of(STARTED)[-1], client.of(STOPPED)[-1]
            assert 1000 * (first + 0.9) < started.audio_start_ms < 1000 * (first + 1.3) < stopped.audio_end_ms

    asyncio.run(run())


def test_cleared_audio_is_not_transcribed(server: ServerProcess) -> None:
    async def run() -> None:
        async with realtime(server) as client:
            await client.update(turn_detection=None)
            await client.append(spoken("aaa"))
            await client.connection.input_audio_buffer.clear()
            await client.until("input_audio_buffer.cleared")
            assert client.of(COMMITTED) == client.of(COMPLETED) == []
            await client.append(spoken("bc"))
            await client.connection.input_audio_buffer.commit()
            assert (await client.until(COMPLETED)).transcript == "b c"
            await client.append(silence(0.5))
            await client.connection.input_audio_buffer.commit()
            assert (await client.until(COMPLETED)).transcript == ""

    asyncio.run(run())


def test_a_cleared_turn_becomes_no_item(server: ServerProcess) -> None:
    """`speech_started` has no `speech_stopped`, because that would announce an item."""

    async def run() -> None:
        async with realtime(server) as client:
            await client.append(spoken("aaa" * 3))
            cleared = (await client.until(STARTED)).item_id
            await client.connection.input_audio_buffer.clear()
            await client.until("input_audio_buffer.cleared")
            await client.append(np.concatenate([spoken("bc"), silence(2.0)]))
            found = await client.until(COMPLETED)
            assert found.transcript == "b c" and found.item_id != cleared
            assert len(client.of(STARTED)) == 2 and len(client.of(STOPPED)) == len(client.of(COMMITTED)) == 1

    asyncio.run(run())


def test_hot_words_change_within_a_turn_and_other_options_end_it(server: ServerProcess) -> None:
    """The prompt's words become hot words: they decide between a and b in the audio that follows."""
    unsure = (np.sign(speak("aaaa")) * 0.27).astype(np.float32)

    async def run() -> None:
        async with realtime(server) as client:
            await client.update(turn_detection=None, format={"type": "audio/pcm", "rate": SAMPLE_RATE})
            await client.append(unsure)
            await client.update(transcription={"model": "whisper-1", "prompt": "B, xylophone"})
            await client.append(unsure)
            assert client.of(COMMITTED) == []
            await client.connection.input_audio_buffer.commit()
            transcript = (await client.until(COMPLETED)).transcript
            assert transcript.startswith("a a") and "b" in transcript
            assert "b" not in " ".join(recognised(np.concatenate([unsure, unsure]), SAMPLE_RATE, pause=None))
            await client.update(transcription={"model": "gpt-4o-transcribe", "language": "en"})  # keeps the prompt
            await client.append(unsure)
            await client.update(format={"type": "audio/pcm", "rate": 16000})
            assert "b" in client.of(COMPLETED)[1].transcript and len(client.of(COMMITTED)) == 2
            session = client.of("session.updated")[-1].session
            assert session.audio.input.transcription.prompt == "B, xylophone"

    asyncio.run(run())


def test_telephone_audio(server: ServerProcess) -> None:
    """8-bit samples of G.711, made by libsndfile."""
    buffer = io.BytesIO()
    soundfile.write(buffer, speak("abc"), SAMPLE_RATE, format="RAW", subtype="ULAW")

    async def run() -> None:
        async with realtime(server) as client:
            await client.update(turn_detection=None, format={"type": "audio/pcmu"})
            await client.connection.input_audio_buffer.append(audio=base64.b64encode(buffer.getvalue()).decode())
            await client.connection.input_audio_buffer.commit()
            assert (await client.until(COMPLETED)).transcript == "a b c"

    asyncio.run(run())


def test_mistakes_are_reported_and_the_session_goes_on(server: ServerProcess) -> None:
    mistakes: list[tuple[str, str]] = [
        ("{", "not JSON"),
        ("[1]", 'an object with a text "type"'),
        ('{"type": "response.create"}', "is not one of input_audio_buffer.append"),
        ('{"type": "input_audio_buffer.append"}', 'has no string "audio"'),
        ('{"type": "input_audio_buffer.append", "audio": "=?="}', "not valid base64"),
        ('{"type": "input_audio_buffer.commit"}', "the input audio buffer is empty"),
        ('{"type": "session.update", "session": {"type": "realtime"}}', "session.type must be transcription"),
        ('{"type": "session.update", "session": {"audio": {"input": {"gain": 2}}}}', "unknown key 'gain'"),
        (
            '{"type": "session.update", "session": {"audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}}}',
            "turn_detection.type semantic_vad needs a language model, and this server was started without",
        ),
        ('{"type": "session.update", "session": {"audio": {"input": {"format": {"type": 3}}}}}', "one of audio/pcm"),
    ]

    async def run() -> None:
        async with realtime(server) as client:
            for number, (text, problem) in enumerate(mistakes):
                text = text.replace('{"type"', f'{{"event_id": "mine_{number}", "type"', 1)
                await client.connection.send_raw(text)
                error = (await client.until("error")).error
                assert problem in error.message and error.type == "invalid_request_error"
                assert error.event_id == (f"mine_{number}" if '"type"' in text else None)
            await client.append(np.concatenate([spoken("abc"), silence(2.0)]))
            assert (await client.until(COMPLETED)).transcript == "a b c"

    asyncio.run(run())


def test_commits_keep_their_place_on_a_full_server(server: ServerProcess) -> None:
    async def run() -> None:
        async def talk(client: Realtime) -> None:
            await client.update(turn_detection=None)
            for _ in range(3):
                await client.append(spoken("ab"))
                await client.connection.input_audio_buffer.commit()
                assert (await client.until(COMPLETED)).transcript == "a b"

        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(realtime(server)) for _ in range(4)]
            await asyncio.gather(*map(talk, clients))
            bearer = {"Authorization": "Bearer s3cret"}
            session = await stack.enter_async_context(aiohttp.ClientSession(headers=bearer))
            fifth = await stack.enter_async_context(session.ws_connect(f"{server.url}v1/realtime"))
            message = json.loads((await fifth.receive()).data)
            assert message["type"] == "error" and "try again later" in message["error"]["message"]
            assert message["error"]["type"] == "server_error"

        async def are_gone() -> bool:
            return await metric_with_token(server, "sessions") == 0

        assert await eventually(are_gone)

    asyncio.run(run())


async def metric_with_token(server: ServerProcess, name: str) -> float:
    _, _, body = await http("GET", f"{server.url}metrics?token=s3cret")
    return float(
        next(line.split()[1] for line in body.decode().splitlines() if line.startswith(f"wenet_fusion_{name} "))
    )


def test_pages_show_the_token_in_a_subprotocol(server: ServerProcess) -> None:
    async def run() -> None:
        async with aiohttp.ClientSession() as session:
            names = ("realtime", "openai-insecure-api-key.s3cret")
            async with session.ws_connect(f"{server.url}v1/realtime", protocols=names) as socket:
                assert socket.protocol == "realtime"
                assert json.loads((await socket.receive()).data)["type"] == "session.created"
            async with session.ws_connect(f"{server.url}v1/realtime", protocols=names[1:]) as socket:
                assert socket.protocol is None
                assert json.loads((await socket.receive()).data)["type"] == "session.created"
            for names in (("realtime",), ("realtime", "openai-insecure-api-key.wrong")):
                with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                    await session.ws_connect(f"{server.url}v1/realtime", protocols=names)
                assert caught.value.status == 401
            headers = {"Origin": "https://evil.example", "Authorization": "Bearer s3cret"}
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await session.ws_connect(f"{server.url}v1/realtime", headers=headers)
            assert caught.value.status == 403
        assert not any("s3cret" in line for line in server.log)

    asyncio.run(run())
