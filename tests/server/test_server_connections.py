"""Limits on open connections: file descriptors remain free, and silent connections do not lock out clients."""

import asyncio
import os
import socket as sockets
import ssl
from pathlib import Path

import pytest
from support.runtime.server_process import PATIENCE, ServerProcess, eventually, http
from wenet_fusion_runtime.server.bind import BindOptions, bind
from wenet_fusion_runtime.server.connection_limits import REJECTED_AT_ONCE, ConnectionLimiter, available_connections
from wenet_fusion_runtime.server.limits import Limits


@pytest.mark.parametrize("is_tls", [False, True])
def test_connections_of_all_kinds_are_bounded(fake_archive: Path, certificate: Path, is_tls: bool) -> None:
    """Silent connections count too: descriptors remain free, and a new client replaces an old connection."""
    most = Limits(sessions=2).sockets
    flags = ["--max_sessions", 2, "--start_seconds", 2 * PATIENCE, *(["--certificate", certificate] if is_tls else [])]
    with ServerProcess(fake_archive, *flags) as guarded:
        descriptors, url = guarded.descriptors, f"{guarded.url}healthz"
        context = ssl.create_default_context(cafile=str(certificate)) if is_tls else None
        held = [
            sockets.create_connection(("127.0.0.1", guarded.port), PATIENCE)
            for _ in range(most + REJECTED_AT_ONCE + 20)
        ]

        async def is_served() -> bool:
            return (await http("GET", url, **({"ssl": context} if is_tls else {})))[0] == 200

        assert asyncio.run(is_served())
        assert held[0].recv(1000) == b"", "the oldest has lost its place"
        assert guarded.descriptors <= descriptors + most + REJECTED_AT_ONCE
        for one in held:
            one.close()
        assert asyncio.run(eventually(is_served))
        assert not any("ERROR" in line for line in guarded.log), guarded.log


def test_above_the_limit_of_busy_connections_the_reason_is_sent() -> None:
    """Connections that serve sessions keep their places; a closed one frees its own at once."""

    async def run() -> None:
        rejections: list[None] = []
        limiter = ConnectionLimiter(asyncio.Protocol, Limits(sessions=1), 3, lambda: rejections.append(None))
        (bound,) = bind(BindOptions(port=0))
        listener = limiter.listener(bound)
        server = await asyncio.get_running_loop().create_server(limiter, sock=listener)
        port = listener.getsockname()[1]

        async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            return await asyncio.open_connection("127.0.0.1", port)

        held = []
        for count in range(1, 4):
            held.append(await connect())
            while len(limiter._accepted) < count:
                await asyncio.sleep(0.01)
            for seat in limiter._accepted:
                seat.is_busy = True
        reader, writer = await connect()
        answer = await asyncio.wait_for(reader.read(), PATIENCE)
        assert answer.startswith(b"HTTP/1.1 503 ") and b"too many connections are open" in answer
        assert len(rejections) == 1 and len(limiter._accepted) == 3
        writer.close()
        held.pop()[1].close()
        while len(limiter._accepted) > 2:
            await asyncio.sleep(0.01)
        held.append(await connect())
        while len(limiter._accepted) < 3:
            await asyncio.sleep(0.01)
        assert len(rejections) == 1
        for _, each in held:
            each.close()
        server.close()

    asyncio.run(asyncio.wait_for(run(), PATIENCE))


@pytest.mark.parametrize("waiting", [["a", "b", "b"], ["a", "a", "b"]])
def test_the_oldest_connection_of_the_busiest_address_loses_its_place(waiting: list[str]) -> None:
    limiter = ConnectionLimiter(asyncio.Protocol, Limits(sessions=1), 5, lambda: None)  # three may wait
    pairs = [sockets.socketpair() for _ in range(6)]
    held = [limiter._count(pair[0], address) for pair, address in zip(pairs, waiting)]
    busy = limiter._count(pairs[3][0], "c")  # replaces the first of two, and then serves a session
    first = waiting.index(max(waiting, key=waiting.count))
    assert [one in limiter._rejected for one in held] == [number == first for number in range(3)]
    busy.is_busy = True
    others = [limiter._count(pair[0], "d") for pair in pairs[4:]]
    assert busy in limiter._accepted and others[1] in limiter._accepted and len(limiter._accepted) == 4
    for one in (*held, busy, *others, *(pair[1] for pair in pairs)):
        one.close()
    assert not limiter._accepted and not limiter._rejected


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
def test_the_systems_limit_of_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    files = [256, 4096]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: tuple(files))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, values: files.__setitem__(slice(None), values))
    assert available_connections(Limits(sessions=2)) == Limits(sessions=2).sockets and files[0] > 256  # raised
    files[:] = [400, 400]
    limits = Limits(sessions=40)
    assert limits.connections <= available_connections(limits) == 400 - 2 * 40 - 6 * 16 - 64 < limits.sockets
    message = r"100 sessions need \d+ open files, and the system allows 400; raise .*ulimit -n.*--max_sessions"
    with pytest.raises(OSError, match=message):
        available_connections(Limits())
    files[:] = [resource.RLIM_INFINITY, resource.RLIM_INFINITY]
    assert available_connections(Limits()) == Limits().sockets


def test_clients_that_have_left_cost_no_place() -> None:
    limiter = ConnectionLimiter(asyncio.Protocol, Limits(sessions=1), 5, lambda: None)
    (bound,) = bind(BindOptions(port=0))
    with limiter.listener(bound) as listener:
        listener.setblocking(True)
        address = listener.getsockname()
        for _ in range(3):
            sockets.create_connection(address, PATIENCE).close()
        with sockets.create_connection(address, PATIENCE) as stays:
            accepted, peer = listener.accept()
            assert peer == stays.getsockname() and len(limiter._accepted) == 1
            accepted.close()


def test_rejected_connections_are_bounded_too() -> None:
    limiter = ConnectionLimiter(asyncio.Protocol, Limits(sessions=1), 1, lambda: None)
    pairs = [sockets.socketpair() for _ in range(REJECTED_AT_ONCE + 2)]
    held = [limiter._count(pairs[0][0], "a")]
    held[0].is_busy = True
    held += [limiter._count(pair[0], "a") for pair in pairs[1:-1]]
    assert len(limiter._rejected) == REJECTED_AT_ONCE
    with pytest.raises(ConnectionAbortedError):
        limiter._count(pairs[-1][0], "a")
    for one in (*held, *(pair[1] for pair in pairs)):
        one.close()
