"""Uploads, pages, access and TLS of the server, and how it starts."""

import asyncio
import datetime
import io
import ipaddress
import json
import re
import socket as sockets
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import aiohttp
import numpy as np
import pytest
import soundfile
from conftest import absent
from fake_model import SAMPLE_RATE, save_archive, speak
from server_process import ServerProcess, connected, eventually, http, metric, pcm, spoken_to

from wenet_fusion_runtime.cli import main
from wenet_fusion_runtime.serving import pages
from wenet_fusion_runtime.serving.access import Access
from wenet_fusion_runtime.serving.listening import Listening, bind
from wenet_fusion_runtime.serving.pages import load_pages


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_archive(tmp_path_factory.mktemp("http") / "model.zip")


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[ServerProcess]:
    with ServerProcess(model) as started:
        yield started


def encoded(text: str, form: str = "WAV", rate: int = SAMPLE_RATE) -> bytes:
    buffer = io.BytesIO()
    samples = np.repeat(speak(text), rate // SAMPLE_RATE)
    soundfile.write(buffer, np.stack([samples] * 2, axis=1), rate, format=form)
    return buffer.getvalue()


def post(server: ServerProcess, query: str = "", data: object = None) -> tuple[int, str, str]:
    """Status, content type and body."""
    status, headers, body = asyncio.run(http("POST", f"{server.url}transcribe{query}", data=data))
    return status, headers["Content-Type"], body.decode()


# ---- uploads


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG"])
def test_a_file_gives_the_text_that_transcribe_gives(
    server: ServerProcess, model: Path, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "audio"
    path.write_bytes(encoded("abcd dcba" * 3, form))
    assert main(["transcribe", str(model), str(path), "--format", "json"]) == 0
    segments = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    status, kind, body = post(server, data=path.read_bytes())
    found = json.loads(body)
    assert (status, kind, found["status"]) == (200, "application/json; charset=utf-8", "ok")
    assert [{"file": str(path), **segment} for segment in found["segments"]] == segments
    assert found["text"] == " ".join(segment["text"] for segment in segments) and len(found["text"]) > 20
    assert found["seconds"] == pytest.approx(len(speak("abcd dcba" * 3)) / SAMPLE_RATE)


def test_a_form_may_carry_the_file_and_options(server: ServerProcess) -> None:
    form = aiohttp.FormData()
    form.add_field("chunk", "4")
    form.add_field("recording", encoded("abc"), filename="a.wav", content_type="audio/wav")
    form.add_field("nbest", "2")
    status, _, body = post(server, data=form)
    segment, = json.loads(body)["segments"]
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
    status, found_kind, body = post(server, f"?format={form}", encoded("abc"))
    assert (status, found_kind) == (200, kind) and body.startswith(expected)


def test_streamed_answers_come_while_it_is_recognised(server: ServerProcess) -> None:
    status, kind, body = post(server, f"?stream=true&chunk=4&endpoint={quote(json.dumps({'rule3_seconds': 1, 'rule3_silence_seconds': 0.08}))}", encoded("abcd" * 10))
    *records, last = [json.loads(line) for line in body.splitlines()]
    assert (status, kind) == (200, "application/x-ndjson")
    assert last == {"status": "ok", "text": " ".join("abcd" * 10), "seconds": len(speak("abcd" * 10)) / SAMPLE_RATE}
    finals = [record for record in records if "endpoint" in record]
    assert len(finals) > 5 and " ".join(filter(None, (record["text"] for record in finals))) == last["text"]
    assert all(record.keys() == {"segment", "partial", "committed"} for record in records if "endpoint" not in record)


@pytest.mark.parametrize(
    "query, data, message",
    [
        ("", b"", "no audio came"), ("", b"no audio at all", "upload: cannot be read as audio"),
        ("?chunk=5", "a", "chunk 5 with left context 4"), ("?chunk=x", "a", 'chunk must be an integer of 1 to 1048576, found "x"'),
        ("?format=mp3", "a", "format must be one of text, json, ctm, srt, vtt"),
        ("?stream=1", "a", "stream must be true or false"), ("?stream=true&format=srt", "a", "goes with format=json only"),
        ("?sample_rate=8000", "a", "sample_rate means nothing for a file"), ("?colour=red", "a", "unknown key 'colour'"),
        ("?hot_words=[1]", "a", "hot_words must be objects"), ("?endpoint={%22rule3_seconds%22:0}", "a", "must be positive"),
    ],
)
def test_wrong_uploads_are_refused_with_a_reason(server: ServerProcess, query: str, data: str | bytes, message: str) -> None:
    status, kind, body = post(server, query, data if isinstance(data, bytes) else encoded(data))
    record = json.loads(body)
    assert (status, kind, record["status"]) == (400, "application/json; charset=utf-8", "failed")
    assert message in record["message"], record


def test_of_a_damaged_file_the_text_before_the_damage_comes(server: ServerProcess) -> None:
    whole = encoded("abcd")
    for query in ("", "?stream=true"):
        status, _, body = post(server, query, whole[: round(0.73 * len(whole))])
        record = json.loads(body.splitlines()[-1])
        assert status == (200 if query else 400) and record["status"] == "failed"
        assert record["text"] == "a b c" and "is damaged or ends too early" in record["message"]


def test_broken_forms_are_refused(server: ServerProcess) -> None:
    for kind, body in (("multipart/form-data; boundary=x", b"--y\r\n"), ("multipart/form-data", b"abc"),
                       ("multipart/form-data; boundary=x", b"--x\r\nbroken")):
        status, _, answer = asyncio.run(
            http("POST", f"{server.url}transcribe", data=body, headers={"Content-Type": kind}))
        assert status == 400 and json.loads(answer)["status"] == "failed", answer


def test_an_upload_whose_client_vanishes_leaves_nothing(server: ServerProcess) -> None:
    async def run() -> None:
        opened = await metric(server.url, "sessions_opened_total")
        body = encoded("abcd" * 400)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST /transcribe HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        while await metric(server.url, "sessions_opened_total") == opened:
            await asyncio.sleep(0.01)
        writer.transport.abort()
        assert await eventually(lambda: _is_empty(server))

    asyncio.run(run())


async def _is_empty(server: ServerProcess) -> bool:
    return json.loads((await http("GET", f"{server.url}healthz"))[2])["sessions"] == 0


# ---- other routes


def test_healthz_info_and_unknown_paths(server: ServerProcess) -> None:
    async def run() -> None:
        assert (await http("GET", f"{server.url}healthz"))[::2] == (200, b'{"status": "ok", "sessions": 0}')
        status, headers, body = await http("GET", f"{server.url}info")
        info = json.loads(body)
        assert status == 200 and info["sample_rate"] == SAMPLE_RATE and info["model"] == "model.zip"
        assert info["chunks"] == [{"chunk": 4, "left": 4, "seconds": 0.16}, {"chunk": 8, "left": 2, "seconds": 0.32}]
        assert info["default"] == {"chunk": 8, "left": 2} and info["limits"]["audio_seconds"] == 14400
        for method, path, expected in (("GET", "nothing", 404), ("POST", "info", 405), ("GET", "transcribe", 405),
                                       ("GET", "ws", 400)):
            status, headers, body = await http(method, f"{server.url}{path}")
            assert status == expected and json.loads(body)["status"] == "failed", (path, body)
            assert headers["X-Content-Type-Options"] == "nosniff" and headers["Server"] == "wenet-fusion-runtime"
        assert (await http("GET", f"{server.url}metrics"))[1]["Content-Type"].startswith("text/plain; version=")

    asyncio.run(run())


def test_rubbish_instead_of_http_harms_nobody(server: ServerProcess) -> None:
    for rubbish in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x00" * 1000 + b"\r\n\r\n", b"GET\r\n\r\n", b"A" * 100000):
        with sockets.create_connection(("127.0.0.1", server.port), 20) as raw:
            raw.sendall(rubbish)
            raw.shutdown(sockets.SHUT_WR)
            raw.recv(1000)
    assert asyncio.run(http("GET", f"{server.url}healthz"))[0] == 200


# ---- pages


@pytest.fixture
def web(tmp_path: Path) -> Path:
    folder = tmp_path / "web"
    (folder / "sub").mkdir(parents=True)
    files = {"index.html": "<!doctype html><p>hello", "app.js": "export {};", "style.css": "p {}", "icon.svg": "<svg/>",
             "sub/index.html": "sub", ".hidden": "x", "sub/data.json": "{}", "x.unknown": "?"}
    for name, content in files.items():
        (folder / name).write_text(content)
    (tmp_path / "secret.txt").write_text("secret")
    return folder


def test_pages_are_the_files_of_the_folder_and_nothing_else(web: Path) -> None:
    found = load_pages(web)
    assert {path: page.content_type for path, page in found.items()} == {
        "/": "text/html; charset=utf-8", "/index.html": "text/html; charset=utf-8", "/app.js": "text/javascript; charset=utf-8",
        "/style.css": "text/css; charset=utf-8", "/icon.svg": "image/svg+xml", "/sub/": "text/html; charset=utf-8",
        "/sub/index.html": "text/html; charset=utf-8", "/sub/data.json": "application/json",
        "/x.unknown": "application/octet-stream",
    }
    assert found["/app.js"].content == b"export {};" and load_pages(web / "missing") == {}


def test_pages_are_served_with_a_strict_policy(web: Path, model: Path, tmp_path: Path) -> None:
    """In a process whose web folder is ours: a copy of the command with the folder replaced."""
    script = tmp_path / "serve.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom wenet_fusion_runtime.serving import server\n"
        f"from wenet_fusion_runtime.serving.pages import load_pages\nserver.load_pages = lambda: load_pages(Path({str(web)!r}))\n"
        "from wenet_fusion_runtime.cli import main\nsys.exit(main())\n")

    async def run(server: ServerProcess) -> None:
        status, headers, body = await http("GET", server.url)
        assert (status, body) == (200, b"<!doctype html><p>hello")
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';") and "unsafe" not in policy and "*" not in policy
        assert (await http("GET", server.url, headers={"If-None-Match": headers["ETag"]}))[0] == 304
        status, headers, _ = await http("HEAD", f"{server.url}app.js")
        assert (status, headers["Content-Type"]) == (200, "text/javascript; charset=utf-8")
        with sockets.create_connection(("127.0.0.1", server.port), 20) as raw:
            for path in ("/../secret.txt", "/%2e%2e/secret.txt", "/sub/../../secret.txt", "/..%2fsecret.txt", "//etc/passwd",
                         "/.hidden", "/sub"):
                raw.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                answer = raw.recv(10000)
                assert answer.startswith(b"HTTP/1.1 404"), (path, answer)
        assert (await spoken_to(server.url, pcm(speak("ab")), sample_rate=SAMPLE_RATE)).text == "a b"    # on / too

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server_process.PROGRAM", [sys.executable, str(script)])
        with ServerProcess(model) as server:
            asyncio.run(run(server))


def test_the_page_is_packed_with_the_runtime() -> None:
    packed = re.search(r'package_data=\{"wenet_fusion_runtime": \[(.+)\]\}',
                       (Path(__file__).parents[1] / "runtime" / "setup.py").read_text())
    root = pages.FOLDER.parent
    globs = [path for pattern in re.findall(r'"(.+?)"', packed[1]) for path in root.glob(pattern)]
    assert {path for path in pages.FOLDER.rglob("*") if path.is_file()} <= set(globs)


# ---- access


@pytest.mark.parametrize(
    "header, query, allowed",
    [
        ("Bearer s3cret", None, True), ("bearer s3cret", None, True), (None, "s3cret", True), (None, None, False),
        ("Bearer wrong", None, False), ("Basic s3cret", None, False), ("Bearer wrong", "s3cret", False), (None, "", False),
        ("Bearer", None, False), (None, "s3cret ", False), (None, "\udcff", False), ("Bearer s3cret2", None, False),
    ],
)
def test_tokens(header: str | None, query: str | None, allowed: bool) -> None:
    assert Access("s3cret").allows_token(header, query) == allowed and Access().allows_token(header, query)


@pytest.mark.parametrize(
    "origin, host, allowed",
    [
        (None, "h:1", True), ("http://h:1", "h:1", True), ("http://h", "h", True), ("https://h", "h:443", True),
        ("https://h:8443", "h:8443", True), ("http://H:1", "h:1", True), ("http://[::1]:5", "[::1]:5", True),
        ("http://h:2", "h:1", False), ("http://evil", "h", False), ("http://h.evil", "h", False), ("null", "h", False),
        ("", "h", False), ("file://h", "h", False), ("http://h", None, False), ("http://h:x", "h", False),
        ("http://user@h", "h", False), ("https://good.example", "h", True), ("https://good.example:444", "h", False),
        ("https://good.example.evil", "h", False),
    ],
)
def test_origins(origin: str | None, host: str | None, allowed: bool) -> None:
    assert Access(origins=("https://good.example",)).allows_origin(origin, host) == allowed
    assert Access(origins=("*",)).allows_origin(origin, host)


def test_access_is_checked_when_it_is_made() -> None:
    for wrong in ("example.org", "https://example.org/page", "ftp://x", ""):
        with pytest.raises(ValueError, match="is no origin, expected one like https://example.org"):
            Access(origins=(wrong,))
    with pytest.raises(ValueError, match="a word of ASCII characters"):
        Access("two words")


def test_token_and_origin_at_work(model: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")

    async def run(server: ServerProcess) -> None:
        audio = encoded("ab")
        for path, method in (("info", "GET"), ("metrics", "GET"), ("transcribe", "POST"), ("nothing", "GET")):
            status, headers, body = await http(method, f"{server.url}{path}", data=audio if method == "POST" else None)
            assert status == 401 and headers["WWW-Authenticate"] == "Bearer" and "a token is needed" in body.decode()
        assert (await http("GET", f"{server.url}healthz"))[0] == 200
        bearer = {"Authorization": "Bearer s3cret"}
        assert (await http("POST", f"{server.url}transcribe?token=s3cret&format=text", data=audio))[2] == b"a b\n"
        assert (await http("GET", f"{server.url}info", headers=bearer))[0] == 200
        for url, options, status in (
            (server.url, {}, 401), (f"{server.url}?token=wrong", {}, 401),
            (server.url, {"headers": bearer | {"Origin": "http://evil.example"}}, 403),
            (server.url, {"headers": bearer | {"Origin": "null"}}, 403),
        ):
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                async with connected(url, **options):
                    pass
            assert caught.value.status == status
        for origin in (None, server.url.rstrip("/"), "https://good.example"):
            headers = bearer | ({} if origin is None else {"Origin": origin})
            async with connected(server.url, headers=headers) as socket:
                await socket.start()
        status, headers, _ = await http("GET", f"{server.url}info?token=s3cret", headers={"Origin": "https://good.example"})
        assert (status, headers["Access-Control-Allow-Origin"]) == (200, "https://good.example")
        status, headers, _ = await http("GET", f"{server.url}info?token=s3cret", headers={"Origin": "https://evil.example"})
        assert status == 403 and "Access-Control-Allow-Origin" not in headers
        assert not any("s3cret" in line for line in server.log)

    with ServerProcess(model, "--token_file", tmp_path / "token", "--allowed_origin", "https://good.example") as server:
        asyncio.run(run(server))


# ---- TLS and listening


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PEM file with a certificate for 127.0.0.1 that vouches for itself, and its key."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        absent("cryptography is not installed, so there is no certificate to try")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256()))
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    form = serialization.PrivateFormat.PKCS8
    private = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    return path


def test_tls(model: Path, certificate: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write(tmp_path / "a.wav", speak("abc"), SAMPLE_RATE)
    with ServerProcess(model, "--certificate", certificate) as server:
        assert server.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(certificate))
        assert asyncio.run(http("GET", f"{server.url}healthz", ssl=context))[0] == 200
        address = f"wss://127.0.0.1:{server.port}/"
        arguments = ["client", address, str(tmp_path / "a.wav"), "--fast"]
        assert main([*arguments, "--authority", str(certificate)]) == 0
        assert capsys.readouterr().out == "a b c\n"
        assert main(arguments) == 1
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("error: ") and "certificate" in err


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--key", "k.pem"], "a private key needs its certificate"), (["--port", "70000"], "the port must be 0 to 65535, found 70000"),
        (["--certificate", "missing.pem"], "missing.pem: no such file"), (["--drain_seconds", "-1"], "must not be negative"),
        (["--host", "no.such.host.invalid"], "no.such.host.invalid: is no address of this computer"),
        (["--host", "192.0.2.1"], "192.0.2.1:0: cannot be listened on"), (["--chunk", "5"], "chunk 5 with left context 4"),
        (["--allowed_origin", "example"], "'example' is no origin"), (["--token_file", "missing"], "No such file"),
        (["--workers", "0"], "workers must be at least 1"),
    ],
)
def test_mistakes_of_the_operator_are_one_line(
    model: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert main(["serve", str(model), "--port", "0", *flags]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and message in err and err.count("\n") == 1


def test_a_port_that_is_taken_and_a_bad_certificate(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with sockets.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", str(model), "--port", str(port)]) == 1
        assert f"127.0.0.1:{port}: cannot be listened on (Address already in use)" in capsys.readouterr().err
    (tmp_path / "bad.pem").write_text("nonsense")
    assert main(["serve", str(model), "--port", "0", "--certificate", str(tmp_path / "bad.pem")]) == 1
    assert "bad.pem: is no PEM certificate with its private key" in capsys.readouterr().err


def test_one_free_port_for_all_addresses() -> None:
    opened = bind(Listening("localhost", 0))
    try:
        assert len({one.getsockname()[1] for one in opened}) == 1
    finally:
        for one in opened:
            one.close()


def test_missing_packages_give_one_instruction(model: Path, tmp_path: Path) -> None:
    hidden = "import sys\nsys.modules.update(dict.fromkeys(['aiohttp', 'prometheus_client']))\n" \
             "from wenet_fusion_runtime.cli import main\nsys.exit(main())"
    for arguments in (["serve", str(model), "--port", "0"], ["client", "localhost:1", "a.wav"]):
        result = subprocess.run([sys.executable, "-c", hidden, *arguments], capture_output=True, text=True, check=False)
        assert result.returncode == 1 and result.stderr.count("\n") == 1
        assert result.stderr.endswith("which is not installed: pip install 'wenet-fusion-runtime[server]'\n")
    result = subprocess.run([sys.executable, "-c", hidden, "info", str(model)], capture_output=True, text=True, check=False)
    assert result.returncode == 0 and "8000 Hz" in result.stdout


@pytest.mark.skipif(not hasattr(sockets, "SO_REUSEPORT"), reason="this system cannot share ports")
def test_two_processes_share_a_port(model: Path) -> None:
    """Both get clients, and one of them can be stopped, as an update does."""
    async def texts(url: str, count: int) -> list[str]:
        found = await asyncio.gather(*(
            spoken_to(url, pcm(speak("abcd")), sample_rate=SAMPLE_RATE) for _ in range(count)))
        return [socket.text for socket in found]

    def served(server: ServerProcess) -> int:
        return sum(": finished, " in line for line in server.log)

    with ServerProcess(model, "--reuse_port") as first, ServerProcess(
            model, "--reuse_port", "--port", first.port) as second:
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
