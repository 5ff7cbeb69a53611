"""Start of the server: addresses, TLS, shared ports, errors of the operator."""

import asyncio
import socket as sockets
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
from support.runtime.fake_model import SAMPLE_RATE, speak
from support.runtime.server_process import ServerProcess, eventually, http, pcm, spoken_to
from wenet_fusion_runtime.cli.__main__ import main
from wenet_fusion_runtime.server.bind import SEND_BUFFER_BYTES, BindOptions, bind


def test_tls(fake_archive: Path, certificate: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write(tmp_path / "a.wav", speak("abc"), SAMPLE_RATE)
    with ServerProcess(fake_archive, "--certificate", certificate) as server:
        assert server.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(certificate))
        assert asyncio.run(http("GET", f"{server.url}healthz", ssl=context))[0] == 200
        address = f"wss://127.0.0.1:{server.port}/"
        arguments = ["client", address, str(tmp_path / "a.wav"), "--fast"]
        assert main([*arguments, "--authority", str(certificate)]) == 0
        assert capsys.readouterr().out == "a b c\n"
        assert main(arguments) == 1
        out, err = capsys.readouterr()
        assert (
            out == "" and err.startswith("error: ") and "its certificate is not trusted" in err and "--authority" in err
        )
        assert main(["client", f"127.0.0.1:{server.port}", *arguments[2:]]) == 1
        assert capsys.readouterr().err.endswith("a server with a certificate needs wss:// or https://\n")


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--key", "k.pem"], "a private key needs its certificate"),
        (["--port", "70000"], "the port must be 0 to 65535, found 70000"),
        (["--certificate", "missing.pem"], "missing.pem: no such file"),
        (["--drain_seconds", "-1"], "drain_seconds must be 0 to 1e+07, found -1"),
        (["--host", "no.such.host.invalid"], "no.such.host.invalid: is not an address of this computer"),
        (["--host", "192.0.2.1"], "192.0.2.1:0: cannot be bound"),
        (["--chunk", "5"], "chunk 5 with left context 4"),
        (["--allowed_origin", "example"], "'example' is not an origin"),
        (["--token_file", "missing"], "No such file"),
        (["--workers", "0"], "workers must be at least 1"),
    ],
)
def test_mistakes_of_the_operator_give_one_line(
    fake_archive: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert main(["serve", str(fake_archive), "--port", "0", *flags]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and message in err and err.count("\n") == 1


def test_a_port_that_is_taken_and_a_bad_certificate(
    fake_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with sockets.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", str(fake_archive), "--port", str(port)]) == 1
        assert f"127.0.0.1:{port}: cannot be bound (Address already in use)" in capsys.readouterr().err
    (tmp_path / "bad.pem").write_text("nonsense")
    assert main(["serve", str(fake_archive), "--port", "0", "--certificate", str(tmp_path / "bad.pem")]) == 1
    assert "bad.pem: is not a PEM certificate with its private key" in capsys.readouterr().err


def test_one_free_port_for_all_addresses() -> None:
    opened = bind(BindOptions("localhost", 0))
    try:
        assert len({one.getsockname()[1] for one in opened}) == 1
    finally:
        for one in opened:
            one.close()


def test_clients_that_stop_reading_fill_a_small_buffer() -> None:
    """Connections inherit the buffer, whose fixed size the system does not enlarge."""
    (opened,) = bind(BindOptions("127.0.0.1", 0))
    with opened:
        size = opened.getsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF)
        assert size in (SEND_BUFFER_BYTES, 2 * SEND_BUFFER_BYTES)  # Linux doubles it


def test_missing_packages_give_one_instruction(fake_archive: Path, tmp_path: Path) -> None:
    hidden = (
        "import sys\nsys.modules.update(dict.fromkeys(['aiohttp', 'prometheus_client']))\n"
        "from wenet_fusion_runtime.cli.__main__ import main\nsys.exit(main())"
    )
    for arguments in (["serve", str(fake_archive), "--port", "0"], ["client", "localhost:1", "a.wav"]):
        result = subprocess.run([sys.executable, "-c", hidden, *arguments], capture_output=True, text=True, check=False)
        assert result.returncode == 1 and result.stderr.count("\n") == 1
        assert result.stderr.endswith("which is not installed: pip install 'wenet-fusion-runtime[server]'\n")
    command = [sys.executable, "-c", hidden, "info", str(fake_archive)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0 and "8000 Hz" in result.stdout


@pytest.mark.skipif(not hasattr(sockets, "SO_REUSEPORT"), reason="this system cannot share ports")
def test_two_processes_share_a_port(fake_archive: Path) -> None:
    """Both get clients, and one can be stopped while the other serves."""

    async def texts(url: str, count: int) -> list[str]:
        found = await asyncio.gather(
            *(spoken_to(url, pcm(speak("abcd")), sample_rate=SAMPLE_RATE) for _ in range(count))
        )
        return [socket.text for socket in found]

    def served(server: ServerProcess) -> int:
        return sum(": finished, " in line for line in server.log)

    with (
        ServerProcess(fake_archive, "--reuse_port") as first,
        ServerProcess(fake_archive, "--reuse_port", "--port", first.port) as second,
    ):
        assert first.port == second.port
        assert asyncio.run(texts(first.url, 24)) == ["a b c d"] * 24
        assert asyncio.run(eventually(lambda: _equals(24, lambda: served(first) + served(second))))
        assert served(first) and served(second), "the system gave all clients to one process"
        first.stop()
        assert first.wait() == 0
        assert asyncio.run(texts(second.url, 8)) == ["a b c d"] * 8
        second.stop()
        assert second.wait() == 0


async def _equals(expected: int, value: Callable[[], int]) -> bool:
    return value() == expected


def test_nginx_counts_no_reply_of_a_server_as_its_failure() -> None:
    """Status 503 makes nginx try the other server. Counted as a failure, it would make nginx avoid both servers."""
    guide = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
    servers = [
        line.split(";")[0].split() for line in guide.splitlines() if line.strip().startswith("server 127.0.0.1:")
    ]
    assert len(servers) == 2 and all("max_fails=0" in words for words in servers) and "http_503" in guide
