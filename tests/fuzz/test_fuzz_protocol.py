"""Messages and requests to a server: each is answered, or the connection is closed, and the next client is served."""

import asyncio
import json
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import strategies as st
from support.runtime.fake_model import SAMPLE_RATE, save_archive, speak
from support.runtime.fuzzing import changed_record, damaged, fuzz, json_values
from support.runtime.server_process import ServerProcess, encoded, frame, http, pcm, raw_socket, spoken_to

pytestmark = pytest.mark.slow
PATIENCE = 60.0  # seconds for an answer
GROWTH = 150.0  # MiB
START = {
    "signal": "start", "nbest": 1, "continuous_decoding": True, "sample_rate": SAMPLE_RATE, "format": "int16",
    "chunk": 4, "left": 4, "timestamps": True, "hot_words": [{"phrase": "a b", "boost": 1.5}],
    "endpoint": {"rule1_seconds": 1.0, "rule2_seconds": None, "rule3_seconds": 2.0, "silence_probability": 0.5},
}  # fmt: skip
AUDIO = pcm(speak("abcd", 2)).tobytes()
FILE = encoded(speak("ab", 2), SAMPLE_RATE, "FLAC")
REQUESTS = [
    b"GET /info HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 1.2.3.4, 5.6.7.8\r\nOrigin: http://localhost\r\n\r\n",
    b"GET /healthz?token=x HTTP/1.1\r\nHost: [::1]:80\r\nAuthorization: Bearer x\r\n\r\n",
    b"OPTIONS /transcribe HTTP/1.1\r\nHost: x\r\nAccess-Control-Request-Method: POST\r\nOrigin: http://x\r\n\r\n",
    b"POST /transcribe?nbest=2&format=srt HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(FILE) + FILE,
    b"POST /transcribe HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(FILE)
    + FILE + b"\r\n0\r\n\r\n",
    b"POST /transcribe?stream=true HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    b"Content-Length: %d\r\n\r\n" % (len(FILE) + 156)
    + b'--b\r\nContent-Disposition: form-data; name="nbest"\r\n\r\n2\r\n'
    + b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.flac"\r\n\r\n' + FILE + b"\r\n--b--\r\n",
    b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n" + frame(1, json.dumps(START).encode()),
]  # fmt: skip
PIECES = (
    b"\r\n",
    b"\r\n\r\n",
    b"%00",
    b"%ff",
    b"Content-Length: 5\r\n",
    b"Expect: 100-continue\r\n",
    b"Content-Encoding: gzip\r\n",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    limits = {
        "start_seconds": 1,
        "idle_seconds": 2,
        "max_upload_bytes": 100_000,
        "max_upload_seconds": 2,
        "send_seconds": 2,
    }
    flags = [part for name, value in limits.items() for part in (f"--{name}", value)]
    with ServerProcess(save_archive(tmp_path_factory.mktemp("fuzz") / "model.zip"), *flags) as started:
        yield started
        assert started.process.poll() is None


async def answered(reader: asyncio.StreamReader) -> bytes:
    """Return all that the server sends until it closes, or sends nothing for a second after an answer."""
    found = b""
    try:
        while data := await asyncio.wait_for(reader.read(65536), 0.5 if found else PATIENCE / 2):
            found += data
    except (ConnectionError, asyncio.TimeoutError):
        pass
    return found


def served(server: ServerProcess) -> None:
    """Check that the server runs, has no error in its log, and recognises."""
    assert server.process.poll() is None
    assert not any("Traceback" in line or "Error" in line.split(": ")[0] for line in server.log), server.log[-30:]
    found = asyncio.run(asyncio.wait_for(spoken_to(server.url, pcm(speak("ab")), sample_rate=SAMPLE_RATE), PATIENCE))
    assert found.text == "a b"


def messages() -> st.SearchStrategy[list[bytes]]:
    """Frames of a session, some of them wrong."""
    start = changed_record([START]).map(lambda record: frame(1, json.dumps(record).encode()))
    audio = damaged([AUDIO, AUDIO[:700], np.frombuffer(AUDIO, "<i2").astype("<f4").tobytes()]).map(
        lambda data: frame(2, data)
    )
    others = [
        frame(9, b"x"), frame(10, b""), frame(8, b"\x03\xe8"), frame(8, b"x"), frame(3, b""), frame(2, b""),
        frame(1, b"\xff"),
        b"\xff" * 8, b"\x02" + frame(2, AUDIO)[1:], b"\x80" + frame(2, AUDIO)[1:], frame(2, b"", 1 << 40),
    ]  # fmt: skip
    text = st.one_of(json_values(list(START)).map(json.dumps), st.text(max_size=30)).map(
        lambda value: frame(1, value.encode("utf-8", "surrogatepass"))
    )
    good = st.just(frame(1, json.dumps(START).encode()))
    following = st.lists(st.one_of(audio, audio, st.sampled_from(others), text), max_size=4)
    return st.tuples(st.one_of(start, start, good, good, text), following).map(lambda pair: [pair[0], *pair[1]])


def test_messages(server: ServerProcess) -> None:
    memory = server.memory

    async def session(frames: list[bytes]) -> bytes:
        raw = await raw_socket(server)
        reader, writer = await asyncio.open_connection(sock=raw)
        try:
            writer.write(b"".join(frames) + frame(1, b'{"signal":"end"}') + frame(8, b"\x03\xe8"))
            return await answered(reader)
        finally:
            writer.close()

    def check(frames: list[bytes]) -> None:
        found = asyncio.run(asyncio.wait_for(session(frames), PATIENCE))
        assert b'"status"' in found or b"\x88" in found, found
        assert b"the server failed" not in found and b"Traceback" not in found
        assert server.process.poll() is None

    fuzz(messages(), check, share=0.1)
    served(server)
    assert server.memory < memory + GROWTH


def test_requests(server: ServerProcess) -> None:
    memory = server.memory

    async def exchange(request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            writer.write(request)
            if len(request) % 3:  # some clients stop sending, others wait
                writer.write_eof()
            return await answered(reader)
        finally:
            writer.close()

    def check(request: bytes) -> None:
        found = asyncio.run(asyncio.wait_for(exchange(request), PATIENCE))
        assert not found or found.startswith(b"HTTP/"), found  # 0.9 if the request states no version
        assert found[9:12] != b"500" and b"the server failed" not in found and b"aiohttp" not in found, found
        assert server.process.poll() is None

    fuzz(damaged(REQUESTS, PIECES), check, share=0.1)
    served(server)
    assert asyncio.run(http("GET", f"{server.url}healthz"))[0] == 200
    assert server.memory < memory + GROWTH
