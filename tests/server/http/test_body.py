"""Bodies of uploads: every byte counts, small pieces are paced and counted, and other connections are served."""

import asyncio
import time
from types import SimpleNamespace

import pytest
from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol
from wenet_fusion_runtime.server.errors import ClientError, Reason
from wenet_fusion_runtime.server.http import body as body_module
from wenet_fusion_runtime.server.http.body import AUDIO_PIECE, PIECES_AT_ONCE, Body


def stream_of(data: bytes) -> StreamReader:
    stream = StreamReader(BaseProtocol(asyncio.get_running_loop()), 1 << 16, loop=asyncio.get_running_loop())
    stream.feed_data(data)
    return stream


@pytest.mark.parametrize("kind", ["lines", "chunks"])
def test_lines_and_small_chunks_leave_others_their_turns(kind: str) -> None:
    """A form of line ends only, and a body with chunks of one byte, are read as slowly as their budget says."""

    async def run() -> tuple[int, int]:
        stream, turns = stream_of(b""), 0
        if kind == "lines":
            stream.feed_data(b"\n" * 50_000)
        else:
            for _ in range(50_000):
                stream.feed_data(b"\n")
        body = Body(stream, 1 << 20)
        headers = {"Content-Type": "multipart/form-data; boundary=b"}

        async def read() -> None:
            if kind == "lines":
                await body.form(SimpleNamespace(headers=headers)).next()
            while True:
                await body.read(1 << 16)

        reading = asyncio.ensure_future(read())
        end = time.monotonic() + 0.2
        while time.monotonic() < end:
            await asyncio.sleep(0)
            turns += 1
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        return turns, 50_000 - stream._size - len(body._rest)

    turns, taken = asyncio.run(run())
    assert turns > PIECES_AT_ONCE and 0 < taken < 10 * PIECES_AT_ONCE


@pytest.mark.parametrize("piece", [0, 1, AUDIO_PIECE - 1, AUDIO_PIECE, 64])
def test_audio_in_small_pieces_is_no_flood_and_in_crumbs_it_is(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    """Crumbs count even if they come so slowly that no budget is used up."""
    monkeypatch.setattr(body_module, "MOST_CRUMBS", 30)

    async def run(pieces: int) -> int:
        stream, found = stream_of(b""), 0
        body = Body(stream, 1 << 20)
        for number in range(pieces):
            stream.feed_data(b"\n" * piece)
            if number == pieces - 1:
                stream.feed_eof()
            if number % 10 == 9:
                await asyncio.sleep(0.01)
                if piece:
                    found += len(await (body.readline() if piece == 1 else body.read(1 << 16)))
        while data := await body.read(1 << 16):
            found += len(data)
        return found

    assert asyncio.run(run(10)) == 10 * piece
    if piece == 0 or piece >= AUDIO_PIECE:  # aiohttp drops empty chunks itself
        assert asyncio.run(run(100)) == 100 * piece
    else:
        with pytest.raises(
            ClientError, match="more than 30 lines of a form, or pieces of less than 16 bytes"
        ) as caught:
            asyncio.run(run(100))
        assert caught.value.reason is Reason.FLOOD


def test_lines_between_audio_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_module, "MOST_CRUMBS", 30)

    async def run() -> None:
        stream = stream_of(b"")
        for _ in range(50):
            stream.feed_data(b"\n")
            stream.feed_data(b"data of a piece that is large enough")
        body = Body(stream, 1 << 20)
        with pytest.raises(ClientError, match="more than 30 lines"):
            for _ in range(50):
                assert (await body.readline(), len(await body.read())) == (b"\n", 36)

    asyncio.run(run())


def test_every_byte_of_a_body_counts() -> None:
    async def run() -> None:
        body = Body(stream_of(b"0123456789\nab"), limit=20)
        assert (await body.readline(), await body.read(1)) == (b"0123456789\n", b"a")
        body.unread_data(b"xy")
        assert await body.read() == b"xyb"
        body._content.feed_data(b"z" * 10)
        with pytest.raises(ClientError, match="more than 20 bytes") as caught:
            await body.read()
        assert caught.value.reason is Reason.UPLOAD_SIZE

    asyncio.run(run())
