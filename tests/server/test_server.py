"""The WebSocket protocol of a server process: WeNet's messages, and the texts of a single stream."""

import asyncio
import json

import numpy as np
import pytest
from support.runtime.fake_model import SAMPLE_RATE, make_model, speak
from support.runtime.server_process import ServerProcess, Socket, connected, eventually, metric, pcm, spoken_to
from wenet_fusion_runtime import DecodingOptions, EndpointRules, Recognizer
from wenet_fusion_runtime.stream.decoding_options import LIVE_OPTIONS
from wenet_fusion_runtime.stream.endpoints import LIVE_ENDPOINTS

READY, END = '{"status":"ok","type":"server_ready"}', '{"status":"ok","type":"speech_end"}'


def alone(samples: np.ndarray, rate: int, chunk: int | None = None, rules: EndpointRules = LIVE_ENDPOINTS) -> str:
    """Return the text of a stream in this process."""
    options = DecodingOptions(endpoint=rules, commit_seconds=LIVE_OPTIONS.commit_seconds)
    stream = Recognizer(make_model(), options).create_stream(chunk)
    closed = [*stream.accept_waveform(samples, rate), *stream.finish()]
    return " ".join(result.text for result in closed if result.text)


def test_a_session_is_byte_by_byte_that_of_wenets_server(server: ServerProcess) -> None:
    samples = pcm(np.repeat(speak("abcd"), 2))  # 16 kHz, as WeNet's clients send it
    socket = asyncio.run(spoken_to(server.url, samples, nbest=1, continuous_decoding=True))
    assert socket.texts[0] == READY and socket.texts[-1] == END and socket.close_code == 1000
    *partials, final, _ = socket.records[1:]
    for partial in partials:
        assert list(partial) == ["status", "type", "nbest"] and partial["type"] == "partial_result"
        (path,) = json.loads(partial["nbest"])
        assert isinstance(partial["nbest"], str) and list(path) == ["sentence"] and path["sentence"]
    assert list(final) == ["status", "type", "nbest"] and final["type"] == "final_result"
    (path,) = json.loads(final["nbest"])
    assert list(path) == ["sentence", "word_pieces"]
    assert all(list(piece) == ["word", "start", "end"] for piece in path["word_pieces"])
    assert path["sentence"] == alone(samples, 16000) == " ".join(piece["word"] for piece in path["word_pieces"])
    assert len(path["sentence"]) >= 5 and json.dumps(final, separators=(",", ":")) == socket.texts[-2]


@pytest.mark.parametrize("path", ["", "ws"])
@pytest.mark.parametrize("piece", [1, 7, 3201, 10**6])
def test_texts_do_not_depend_on_the_cut_not_even_within_samples(server: ServerProcess, piece: int, path: str) -> None:
    text = "abcd dcba" if piece > 1 else "a"
    for form, samples in (("int16", pcm(speak(text))), ("float32", speak(text))):
        socket = asyncio.run(spoken_to(server.url + path, samples, piece, sample_rate=SAMPLE_RATE, format=form))
        assert socket.text == " ".join(text.replace(" ", "")) and socket.texts[-1] == END


def test_half_a_sample_at_the_end_harms_nothing(server: ServerProcess) -> None:
    async def run() -> Socket:
        async with connected(server.url) as socket:
            await socket.start(sample_rate=SAMPLE_RATE)
            await socket.send(pcm(speak("ab")).tobytes() + b"\x01", 99)
            await socket.say(signal="end")
            await socket.rest()
            return socket

    assert asyncio.run(run()).text == "a b"


def test_without_audio_the_final_text_is_empty(server: ServerProcess) -> None:
    socket = asyncio.run(spoken_to(server.url, np.zeros(0)))
    assert socket.texts[1:] == [
        r'{"status":"ok","type":"final_result","nbest":"[{\"sentence\":\"\",\"word_pieces\":[]}]"}',
        END,
    ]


def test_pauses_close_segments(server: ServerProcess) -> None:
    samples = pcm(np.concatenate([speak("ab"), np.zeros(2 * SAMPLE_RATE, np.float32), speak("cd")]))

    async def run(continuous: bool) -> Socket:
        async with connected(server.url) as socket:
            await socket.start(sample_rate=SAMPLE_RATE, continuous_decoding=continuous)
            await socket.send(samples.tobytes())
            if continuous:  # otherwise WeNet's client ends at speech_end
                await socket.say(signal="end")
            await socket.rest()
            return socket

    continuous, single = asyncio.run(run(True)), asyncio.run(run(False))
    finals = [
        json.loads(record["nbest"])[0]["sentence"]
        for record in continuous.records
        if record.get("type") == "final_result"
    ]
    assert finals == ["a b", "c d"] and [record["type"] for record in continuous.records].count("speech_end") == 1
    assert single.text == "a b" and single.texts[-1] == END and single.close_code == 1000


def test_a_client_may_send_its_end_after_the_server_is_through(server: ServerProcess) -> None:
    """WeNet's client stops reading at speech_end, then sends its end signal."""

    async def run() -> None:
        async with connected(server.url, autoclose=False) as socket:
            await socket.start(sample_rate=SAMPLE_RATE)
            await socket.send(pcm(np.concatenate([speak("ab"), np.zeros(2 * SAMPLE_RATE, np.float32)])).tobytes())
            while await socket.receive() != END:
                pass
            await socket.send(bytes(3200))
            await socket.say(signal="end")

    asyncio.run(run())


def test_messages_after_the_end_signal_are_ignored(server: ServerProcess) -> None:
    async def run() -> Socket:
        async with connected(server.url) as socket:
            await socket.start(sample_rate=SAMPLE_RATE)
            await socket.send(pcm(speak("ab")).tobytes())
            await socket.say(signal="end")
            await socket.send(pcm(speak("cd")).tobytes())
            await socket.socket.send_str("rubbish")
            await socket.rest()
            return socket

    assert asyncio.run(run()).text == "a b"


def test_extensions_do_what_they_say(server: ServerProcess) -> None:
    samples = pcm(speak("abcdabcd"))

    def ask(**options: object) -> Socket:
        return asyncio.run(spoken_to(server.url, samples, sample_rate=SAMPLE_RATE, **options))

    assert ask(chunk=4).text == ask(chunk=8, left=2).text == "a b c d a b c d"
    # A smaller chunk gives more results: 12.7 blocks of 4 frames, or 6.4 blocks of 8.
    timed = ask(chunk=4, timestamps=True, continuous_decoding=True)
    final = timed.records[-2]
    assert [word["text"] for word in final["words"]] == list("abcdabcd") and final["committed"] == 8
    spans = [time for word in final["words"] for time in (word["start"], word["end"])]
    assert spans == sorted(spans) and all(0.5 < word["confidence"] <= 1 for word in final["words"])
    committed = [record["committed"] for record in timed.records if record.get("type") == "partial_result"]
    assert committed == sorted(committed)
    rules = {"rule3_seconds": 0.4, "rule3_silence_seconds": 0.08, "rule3_extra_seconds": 0.2}
    cut = ask(endpoint=rules, continuous_decoding=True, timestamps=True)
    finals = [record for record in cut.records if record.get("type") == "final_result"]
    assert len(finals) > 3 and {final["endpoint"] for final in finals} == {"rule3", "end_of_audio"}
    assert cut.text == "a b c d a b c d" and [final["segment"] for final in finals] == list(range(len(finals)))
    assert ask(hot_words=[{"phrase": "b a", "boost": 30}]).text != ask().text
    assert len(json.loads(ask(nbest=4).records[-2]["nbest"])) == 4


@pytest.mark.parametrize(
    "messages, failure",
    [
        ([b"\x00\x00"], "Start signal is expected before binary data"),
        (['{"signal":"end"}'], "Start signal is expected before end signal"),
        (["7"], "Wrong protocol"),
        (["{}"], "Wrong message header"),
        (['{"signal":"stop"}'], "Unexpected signal type"),
        (["{nonsense"], "Wrong protocol: a text message is not JSON"),
        (['{"signal":"start","nbest":"x"}'], "integer is expected for nbest option"),
        (
            ['{"signal":"start","chunk":5}'],
            "chunk 5 with left context 4: the model was not trained for it; choose one of",
        ),
        (['{"signal":"start","left":3}'], "chunk 8 with left context 3: the model was not trained for it"),
        (['{"signal":"start","hot_words":[{"phrase":"xyz"}]}'], "hot word 'xyz'"),
        (['{"signal":"start","lang":"en"}'], "unknown key 'lang'"),
        (['{"signal":"start"}', '{"signal":"start"}'], "Unexpected start signal"),
        (['{"signal":"start","hot_words":[{"phrase":"\\ud800"}]}'], r"hot word '\ud800'"),
        (['{"signal":"start","hot_words":[{"phrase":"%s"}]}' % ("€" * 80)], "€': no token is '€"),
        (['{"signal":"start","hot_words":[{"phrase":"a","boost":1%s}]}' % ("0" * 400)], "has boost inf"),
        (['{"signal":"start"}', "[1"], "Wrong protocol: a text message is not JSON"),
        (['{"signal":"start","format":"float32"}', np.float32([np.nan] * 4000).tobytes()], "NaN or infinity"),
    ],
)
def test_mistakes_are_answered_and_the_connection_is_closed(
    server: ServerProcess, messages: list[str | bytes], failure: str
) -> None:
    async def run() -> Socket:
        async with connected(server.url) as socket:
            for message in messages:
                await (socket.socket.send_str if isinstance(message, str) else socket.socket.send_bytes)(message)
            await socket.rest()
            return socket

    socket = asyncio.run(run())
    assert failure in socket.failure and socket.failure.startswith(socket.close_reason) and socket.close_code == 1000
    assert socket.texts[:-1] == [READY] * (len(messages) - 1)


def test_a_clients_text_cannot_begin_a_line_of_the_log(server: ServerProcess) -> None:
    """A client's text is escaped in the log, so it can neither begin a line nor control a terminal."""

    async def run() -> Socket:
        async with connected(server.url) as socket:
            await socket.say(signal="start", hot_words=[{"phrase": "x\nINFO forged\x1b[2J"}])
            await socket.rest()
            return socket

    assert r"x\nINFO forged\x1b[2J" in asyncio.run(run()).failure
    assert asyncio.run(eventually(lambda: _is_logged(server, r"x\nINFO forged\x1b[2J")))
    assert not any(line.startswith("INFO forged") or "\x1b" in line for line in server.log)


async def _is_logged(server: ServerProcess, text: str) -> bool:
    return any(text in line for line in server.log)


@pytest.mark.parametrize("rate", [SAMPLE_RATE, 16000])
def test_the_loudest_numbers_are_clipped_like_all_others(server: ServerProcess, rate: int) -> None:
    loud, full = (level * np.repeat([1.0, -1.0], 4000).astype(np.float32) for level in (9.0, 1.0))
    found = [
        asyncio.run(spoken_to(server.url, samples, sample_rate=rate, format="float32")) for samples in (loud, full)
    ]
    assert found[0].texts[-2:] == found[1].texts[-2:] and found[0].text and found[0].texts[-1] == END


def test_bytes_of_another_kind_are_named(server: ServerProcess) -> None:
    speech = speak("abcd")
    for data, sample_format, message in (
        (b"OggS" + bytes(4000), "int16", "the bytes are an Ogg file, expected signed 16-bit"),
        (b"\x1a\x45\xdf\xa3" + bytes(4000), "float32", "the bytes are a WebM or Matroska file"),
        (speech.astype("<f4").tobytes(), "int16", "the bytes are 32-bit floats, expected signed 16-bit"),
        ((20000.0 * speech).astype("<f4").tobytes(), "float32", "in the scale of integers"),
    ):
        found = asyncio.run(
            spoken_to(server.url, np.frombuffer(data, np.uint8), sample_rate=16000, format=sample_format)
        )
        assert message in found.failure


def test_frames_that_break_websockets_rules_are_answered_too(server: ServerProcess) -> None:
    async def run(opcode: int, payload: bytes) -> Socket:
        async with connected(server.url) as socket:
            await socket.start()
            await socket.socket._writer.send_frame(payload, opcode)  # aiohttp's public methods make no such frames
            await socket.rest()
            return socket

    assert "not UTF-8" in asyncio.run(run(1, b"\xff\xfe")).failure
    broken = asyncio.run(run(3, b""))
    assert "breaks the rules" in broken.failure and broken.close_code == 1002


def test_many_sessions_at_once_get_their_own_texts(server: ServerProcess) -> None:
    texts = ["abcd", "dcba", "aa", "", "cab" * 4, "bd"] * 4

    async def run() -> list[Socket]:
        return await asyncio.gather(
            *(
                spoken_to(
                    server.url, pcm(speak(text)), 777 + 100 * index, sample_rate=SAMPLE_RATE, chunk=(4, 8)[index % 2]
                )
                for index, text in enumerate(texts)
            )
        )

    assert [socket.text for socket in asyncio.run(run())] == [" ".join(text) for text in texts]


def test_metrics_count_what_happens(server: ServerProcess) -> None:
    async def run() -> None:
        opened, seconds = (
            await metric(server.url, "sessions_opened_total"),
            await metric(server.url, "audio_seconds_total"),
        )
        async with connected(server.url) as socket:
            await socket.start(sample_rate=SAMPLE_RATE)
            assert await metric(server.url, "sessions") == 1
            await socket.say(signal="end")
            await socket.rest()
        async with connected(server.url) as socket:
            await socket.start()
        assert await eventually(lambda: _is(server, "sessions", 0))
        assert await metric(server.url, "sessions_opened_total") == opened + 2
        assert await metric(server.url, "audio_seconds_total") == pytest.approx(
            seconds + 0.1
        )  # the model's right padding
        assert await metric(server.url, "vanished_total") >= 1
        protocol_errors = await metric(server.url, 'refusals_total{reason="protocol"}')
        async with connected(server.url) as socket:
            await socket.say(signal="end")
            await socket.rest()
        assert await metric(server.url, 'refusals_total{reason="protocol"}') == protocol_errors + 1
        for name in ("step_duration_seconds_count", "batch_size_count", "delay_seconds_count", "real_time_factor"):
            assert await metric(server.url, name) > 0

    asyncio.run(run())


async def _is(server: ServerProcess, name: str, value: float) -> bool:
    return await metric(server.url, name) == value
