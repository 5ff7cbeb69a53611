"""Reading from connections in slices and within budgets."""

import asyncio
import gzip
import select
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import StreamReader, web
from wenet_fusion_runtime.server.errors import ClientError, Reason
from wenet_fusion_runtime.server.guard import budget, fair_protocol
from wenet_fusion_runtime.server.guard.budget import Budget, Pace
from wenet_fusion_runtime.server.guard.fair_protocol import SLICE_BYTES, FairProtocol
from wenet_fusion_runtime.server.http.body import PIECES_AT_ONCE
from wenet_fusion_runtime.server.http.request_handler import RequestHandler
from wenet_fusion_runtime.server.limits import Limits


class Transport:
    """A transport that counts how often reading is paused and resumed."""

    def __init__(self, connection: socket.socket | None = None) -> None:
        self.is_reading = True
        self.is_aborted = False
        self.holds = 0
        self._connection = connection

    def pause_reading(self) -> None:
        self.holds += self.is_reading
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def abort(self) -> None:
        self.is_aborted = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._connection if name == "socket" else default


class Receiver(asyncio.Protocol):
    """Keeps the data that it gets; `work` replaces parsing."""

    def __init__(self, work: Callable[[], object] = lambda: None) -> None:
        self.data, self.work = b"", work

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.work()


def feed(fair: FairProtocol, data: bytes) -> None:
    buffer = fair.get_buffer(-1)
    buffer[: len(data)] = data
    fair.buffer_updated(len(data))


def test_a_turn_reads_one_slice_and_no_more_bytes_than_the_budget() -> None:
    async def run() -> None:
        transport, receiver = Transport(), Receiver()
        fair = FairProtocol(receiver, Limits(bytes_per_second=4 * SLICE_BYTES), bytearray(SLICE_BYTES))
        fair.connection_made(transport)
        assert len(fair.get_buffer(1 << 20)) == SLICE_BYTES
        for _ in range(8):  # two seconds of the budget are saved up
            feed(fair, bytes(SLICE_BYTES))
        assert transport.holds == 0
        feed(fair, b"x" * SLICE_BYTES)
        assert not transport.is_reading and receiver.data.endswith(b"x")
        receiver.transport.pause_reading()  # the parser pauses too; reading stays paused after the hold
        await asyncio.sleep(0.4)
        assert not transport.is_reading
        receiver.transport.resume_reading()
        assert transport.is_reading and receiver.transport.get_extra_info(FairProtocol.NAME) is fair

    asyncio.run(run())


def test_a_connection_whose_data_takes_long_to_parse_waits() -> None:
    def work() -> None:
        end = time.thread_time() + 0.03
        while time.thread_time() < end:
            pass

    async def run(work: Callable[[], object]) -> bool:
        transport = Transport()
        fair = FairProtocol(Receiver(work), Limits(), bytearray(SLICE_BYTES))
        fair.connection_made(transport)
        feed(fair, b"tiny")
        reads = transport.is_reading
        fair.connection_lost(None)
        return reads

    assert not asyncio.run(run(work)) and asyncio.run(run(lambda: None))


@pytest.mark.skipif(not hasattr(select, "POLLRDHUP"), reason="only Linux tells of an end before unread data")
@pytest.mark.parametrize("pause", ["budget", "parser"])
def test_a_client_that_hangs_up_while_it_is_not_read_is_dropped(pause: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_protocol, "HANG_UP_SECONDS", 0.01)

    async def run() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(b"unread")
            transport, receiver = Transport(ours), Receiver()
            fair = FairProtocol(receiver, Limits(bytes_per_second=10), bytearray(SLICE_BYTES))
            fair.connection_made(transport)
            if pause == "budget":
                feed(fair, bytes(1000))
            else:
                receiver.transport.pause_reading()
            await asyncio.sleep(0.1)
            assert not transport.is_reading and not transport.is_aborted
            theirs.close()
            end = time.monotonic() + 10
            while not transport.is_aborted and time.monotonic() < end:
                await asyncio.sleep(0.01)
            assert transport.is_aborted
            fair.connection_lost(None)

    asyncio.run(run())


@pytest.mark.parametrize("is_useful", [False, True])
def test_a_client_that_stays_above_a_budget_is_ended(is_useful: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "FLOOD_SECONDS", 0.1)

    async def run() -> int:
        pace = Pace(Budget(rate=100, burst=5), "too many pieces")
        for number in range(30):
            try:
                await pace.wait(1, is_useful)
            except ClientError as error:
                assert error.reason is Reason.FLOOD and error.message == "too many pieces for 0.1 s"
                return number
        return 30

    assert asyncio.run(run()) == 30 if is_useful else 5 < asyncio.run(run()) < 30


async def answered(data: bytes, until: Callable[[StreamReader], bool]) -> StreamReader:
    """Send a request that is answered unread; return its body once a condition holds or 20 s have passed."""
    contents: list[StreamReader] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        contents.append(request.content)
        return web.Response()

    loop, server = asyncio.get_running_loop(), web.Server(handle)

    def make() -> FairProtocol:
        handler = RequestHandler(server, loop=loop, lingering_time=0.0)
        return FairProtocol(handler, Limits(), bytearray(SLICE_BYTES))

    listener = await loop.create_server(make, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
    writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\n" + data)
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    end = time.monotonic() + 20
    while not until(contents[0]) and time.monotonic() < end:
        await asyncio.sleep(0.01)
    writer.transport.abort()
    listener.close()
    await server.shutdown(1.0)
    return contents[0]


@pytest.mark.parametrize("share", [1e-6, 1.0])
def test_a_packed_body_that_is_dropped_is_parsed_within_the_budget(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a body is read further, aiohttp parses data that it has kept; the connection's budget does not see this."""
    monkeypatch.setattr(fair_protocol, "PARSING_SHARE", share)
    monkeypatch.setattr(fair_protocol, "PARSING_BURST", share * 1e-6)
    packed, over = gzip.compress(bytes(9_000_000), 1), time.monotonic() + 0.2
    head = b"Content-Encoding: gzip\r\nContent-Length: 999999\r\n\r\n"

    def until(content: StreamReader) -> bool:
        return content.total_bytes == 9_000_000 or (share < 1 and time.monotonic() > over)

    content = asyncio.run(answered(head + packed, until))
    assert content.total_bytes == 9_000_000 if share == 1 else content.total_bytes < 5_000_000


def test_small_chunks_that_are_dropped_are_read_at_their_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_protocol, "PARSING_SHARE", 100.0)
    begun = time.monotonic()
    data = b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 50_000
    content = asyncio.run(answered(data, lambda content: content.total_bytes > 5000 and time.monotonic() > begun + 0.3))
    dropped = content.total_bytes - content._size
    assert content.total_bytes > 5000 and dropped < 2 * PIECES_AT_ONCE + 2000 * (time.monotonic() - begun)
