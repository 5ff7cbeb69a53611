"""Limits on open connections: the server keeps its file descriptors, and connections above the limit get status 503."""

import asyncio
import contextlib
import os
import socket as sockets
import ssl
from pathlib import Path

import pytest
from support.runtime.server_process import PATIENCE, ServerProcess, connected, eventually, http
from wenet_fusion_runtime.server.connection_limits import REJECTED_AT_ONCE, available_connections
from wenet_fusion_runtime.server.limits import Limits


def test_connections_without_a_start_are_bounded_too(fake_archive: Path) -> None:
    async def run(server: ServerProcess) -> None:
        many = [connected(server.url) for _ in range(Limits(sessions=2).connections + 1)]
        opened = [await one.__aenter__() for one in many]
        await opened[-1].rest()
        assert "the limit of 36 connections is reached" in opened[-1].failure
        await asyncio.gather(*(one.__aexit__(None, None, None) for one in many))

    with ServerProcess(fake_archive, "--max_sessions", 2) as server:
        asyncio.run(run(server))


@pytest.mark.parametrize("is_tls", [False, True])
def test_connections_of_all_kinds_are_bounded(fake_archive: Path, certificate: Path, is_tls: bool) -> None:
    """Silent connections count too: further ones get status 503, and the process keeps its descriptors."""
    most = Limits(sessions=2).sockets
    flags = ["--max_sessions", 2, "--start_seconds", 2 * PATIENCE, *(["--certificate", certificate] if is_tls else [])]
    with ServerProcess(fake_archive, *flags) as guarded:
        descriptors = guarded.descriptors
        held = [sockets.create_connection(("127.0.0.1", guarded.port), PATIENCE) for _ in range(most)]
        with sockets.create_connection(("127.0.0.1", guarded.port), PATIENCE) as late:
            if is_tls:
                context = ssl.create_default_context(cafile=str(certificate))
                late = context.wrap_socket(late, server_hostname="127.0.0.1")
            answer = b"".join(iter(lambda: late.recv(1000), b""))
        assert answer.startswith(b"HTTP/1.1 503 ") and b"too many connections are open" in answer
        # Rejected connections wait for their TLS handshake too; one that is closed frees its place at once.
        held += [sockets.create_connection(("127.0.0.1", guarded.port), PATIENCE) for _ in range(REJECTED_AT_ONCE + 20)]
        with contextlib.suppress(ConnectionError):
            held[-1].recv(1000)  # status 503, or closed
        assert guarded.descriptors <= descriptors + most + REJECTED_AT_ONCE
        for one in held:
            one.close()
        url = f"{guarded.url}healthz"
        context = ssl.create_default_context(cafile=str(certificate)) if is_tls else None

        async def is_served() -> bool:
            return (await http("GET", url, **({"ssl": context} if is_tls else {})))[0] == 200

        assert asyncio.run(eventually(is_served))
        assert not any("ERROR" in line for line in guarded.log), guarded.log


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
