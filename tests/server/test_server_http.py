"""HTTP: state, model and pages of the server, and access to it."""

import asyncio
import json
import logging
import re
import socket as sockets
import sys
from pathlib import Path

import aiohttp
import pytest
from support.runtime.fake_model import SAMPLE_RATE, speak
from support.runtime.server_process import UPGRADE, ServerProcess, connected, encoded, http, pcm, spoken_to
from wenet_fusion_runtime.server.access import Access
from wenet_fusion_runtime.server.http import pages
from wenet_fusion_runtime.server.http.pages import load_pages
from wenet_fusion_runtime.server.http.request_handler import RequestHandler


def test_healthz_info_and_unknown_paths(server: ServerProcess) -> None:
    async def run() -> None:
        assert (await http("GET", f"{server.url}healthz"))[::2] == (200, b'{"status": "ok", "sessions": 0}')
        status, headers, body = await http("GET", f"{server.url}info")
        info = json.loads(body)
        assert status == 200 and info["sample_rate"] == SAMPLE_RATE and info["model"] == "model.zip"
        assert info["chunks"] == [{"chunk": 4, "left": 4, "seconds": 0.16}, {"chunk": 8, "left": 2, "seconds": 0.32}]
        assert info["default"] == {"chunk": 8, "left": 2} and info["limits"]["audio_seconds"] == 14400
        for method, path, expected in (
            ("GET", "nothing", 404),
            ("POST", "info", 405),
            ("GET", "transcribe", 405),
            ("GET", "ws", 400),
        ):
            status, headers, body = await http(method, f"{server.url}{path}")
            assert status == expected and json.loads(body)["status"] == "failed", (path, body)
            assert headers["X-Content-Type-Options"] == "nosniff" and headers["Server"] == "wenet-fusion-runtime"
        assert (await http("GET", f"{server.url}metrics"))[1]["Content-Type"].startswith("text/plain; version=")

    asyncio.run(run())


def test_rubbish_instead_of_http_harms_nobody(server: ServerProcess) -> None:
    for rubbish in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00" * 1000 + b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"A" * 100000,
    ):
        with sockets.create_connection(("127.0.0.1", server.port), 20) as raw:
            raw.sendall(rubbish)
            raw.shutdown(sockets.SHUT_WR)
            raw.recv(1000)
    assert asyncio.run(http("GET", f"{server.url}healthz"))[0] == 200


@pytest.mark.parametrize("key", [b"\x80MDEyMzQ1Njc4OWFiY2RlZg==", "MDEyé".encode(), b"MDEy", b"====", b""])
def test_a_wrong_websocket_key_is_the_clients_fault(server: ServerProcess, key: bytes) -> None:
    with sockets.create_connection(("127.0.0.1", server.port), 20) as raw:
        raw.sendall(UPGRADE.replace(b"MDEyMzQ1Njc4OWFiY2RlZg==", key))
        answer = raw.recv(1000)
    assert answer.startswith(b"HTTP/1.1 400 ") and b'"status": "failed"' in answer, answer


# ---- pages


@pytest.fixture
def web(tmp_path: Path) -> Path:
    folder = tmp_path / "web"
    (folder / "sub").mkdir(parents=True)
    files = {
        "index.html": "<!doctype html><p>hello",
        "app.js": "export {};",
        "style.css": "p {}",
        "icon.svg": "<svg/>",
        "sub/index.html": "sub",
        ".hidden": "x",
        "sub/data.json": "{}",
        "x.unknown": "?",
    }
    for name, content in files.items():
        (folder / name).write_text(content)
    (tmp_path / "secret.txt").write_text("secret")
    return folder


def test_pages_are_the_files_of_the_folder_and_nothing_else(web: Path) -> None:
    found = load_pages(web)
    assert {path: page.content_type for path, page in found.items()} == {
        "/": "text/html; charset=utf-8",
        "/index.html": "text/html; charset=utf-8",
        "/app.js": "text/javascript; charset=utf-8",
        "/style.css": "text/css; charset=utf-8",
        "/icon.svg": "image/svg+xml",
        "/sub/": "text/html; charset=utf-8",
        "/sub/index.html": "text/html; charset=utf-8",
        "/sub/data.json": "application/json",
        "/x.unknown": "application/octet-stream",
    }
    assert found["/app.js"].content == b"export {};" and load_pages(web / "missing") == {}


def test_pages_are_served_with_a_strict_policy(web: Path, fake_archive: Path, tmp_path: Path) -> None:
    """The command runs with another folder of pages."""
    script = tmp_path / "serve.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom wenet_fusion_runtime.server import server\n"
        "from wenet_fusion_runtime.server.http.pages import load_pages\n"
        f"server.load_pages = lambda: load_pages(Path({str(web)!r}))\n"
        "from wenet_fusion_runtime.cli.__main__ import main\nsys.exit(main())\n"
    )

    async def run(server: ServerProcess) -> None:
        status, headers, body = await http("GET", server.url)
        assert (status, body) == (200, b"<!doctype html><p>hello")
        policy = headers["Content-Security-Policy"]
        assert (
            policy.startswith("default-src 'none'; script-src 'self';") and "unsafe" not in policy and "*" not in policy
        )
        assert (await http("GET", server.url, headers={"If-None-Match": headers["ETag"]}))[0] == 304
        status, headers, _ = await http("HEAD", f"{server.url}app.js")
        assert (status, headers["Content-Type"]) == (200, "text/javascript; charset=utf-8")
        with sockets.create_connection(("127.0.0.1", server.port), 20) as raw:
            for path in (
                "/../secret.txt",
                "/%2e%2e/secret.txt",
                "/sub/../../secret.txt",
                "/..%2fsecret.txt",
                "//etc/passwd",
                "/.hidden",
                "/sub",
            ):
                raw.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                answer = raw.recv(10000)
                assert answer.startswith(b"HTTP/1.1 404"), (path, answer)
        assert (await spoken_to(server.url, pcm(speak("ab")), sample_rate=SAMPLE_RATE)).text == "a b"  # on / too

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("support.runtime.server_process.PROGRAM", [sys.executable, str(script)])
        with ServerProcess(fake_archive) as server:
            asyncio.run(run(server))


def test_the_page_is_packed_with_the_runtime() -> None:
    settings = (Path(__file__).parents[2] / "runtime" / "pyproject.toml").read_text()
    packed = re.search(r"^wenet_fusion_runtime = \[(.+)\]", settings, flags=re.M)
    root = pages.FOLDER.parents[1]
    globs = [path for pattern in re.findall(r'"(.+?)"', packed[1]) for path in root.glob(pattern)]
    assert {path for path in pages.FOLDER.rglob("*") if path.is_file()} <= set(globs)


# ---- access


@pytest.mark.parametrize(
    "header, query, allowed",
    [
        ("Bearer s3cret", None, True),
        ("bearer s3cret", None, True),
        (None, "s3cret", True),
        (None, None, False),
        ("Bearer wrong", None, False),
        ("Basic s3cret", None, False),
        ("Bearer wrong", "s3cret", False),
        (None, "", False),
        ("Bearer", None, False),
        (None, "s3cret ", False),
        (None, "\udcff", False),
        ("Bearer s3cret2", None, False),
        ("Bearer s3cre", None, False),
        (None, "s3", False),
    ],
)
def test_tokens(header: str | None, query: str | None, allowed: bool) -> None:
    assert Access("s3cret").allows_token(header, query) == allowed and Access().allows_token(header, query)


@pytest.mark.parametrize("token", [" s3cret", "s3cret ", "s3cret\n", "s3 cret", "", " ", "s3\0cret", "gehe\u00edm"])
def test_a_token_that_no_header_can_hold_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match="without spaces and control characters: remove them, or choose"):
        Access(token)


@pytest.mark.parametrize(
    "origin, host, allowed",
    [
        (None, "h:1", True),
        ("http://h:1", "h:1", True),
        ("http://h", "h", True),
        ("https://h", "h:443", True),
        ("https://h:8443", "h:8443", True),
        ("http://H:1", "h:1", True),
        ("http://[::1]:5", "[::1]:5", True),
        ("http://h:2", "h:1", False),
        ("http://evil", "h", False),
        ("http://h.evil", "h", False),
        ("null", "h", False),
        ("", "h", False),
        ("file://h", "h", False),
        ("http://h", None, False),
        ("http://h:x", "h", False),
        ("http://user@h", "h", False),
        ("https://good.example", "h", True),
        ("https://good.example:444", "h", False),
        ("https://good.example.evil", "h", False),
    ],
)
def test_origins(origin: str | None, host: str | None, allowed: bool) -> None:
    assert Access(origins=("https://good.example",)).allows_origin(origin, host) == allowed
    assert Access(origins=("*",)).allows_origin(origin, host)


def test_origins_of_apps() -> None:
    access = Access(origins=("tauri://localhost", "Capacitor://localhost", "null"))
    for origin in ("tauri://localhost", "capacitor://LOCALHOST", "null"):
        assert access.allows_origin(origin, "h") and not Access().allows_origin(origin, "h")
        assert not Access(origins=("https://localhost",)).allows_origin(origin, "h")
    for origin in ("tauri://evil", "ionic://localhost", "tauri://localhost@evil", "tauri://", "NULL", "tauri://h/page"):
        assert not access.allows_origin(origin, "h")
    for wrong in ("tauri://", "tauri:localhost", "app://x", "tauri://a@b"):
        with pytest.raises(ValueError, match="of an app such as tauri://localhost"):
            Access(origins=(wrong,))


def test_access_is_checked_when_it_is_made() -> None:
    for wrong in ("example.org", "https://example.org/page", "ftp://x", ""):
        with pytest.raises(ValueError, match="is not an origin, expected one such as https://example.org"):
            Access(origins=(wrong,))
    with pytest.raises(ValueError, match="must consist of ASCII characters"):
        Access("two words")


def test_token_and_origin_at_work(fake_archive: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")

    async def run(server: ServerProcess) -> None:
        audio = encoded(speak("ab"), SAMPLE_RATE)
        for path, method in (("info", "GET"), ("metrics", "GET"), ("transcribe", "POST"), ("nothing", "GET")):
            status, headers, body = await http(method, f"{server.url}{path}", data=audio if method == "POST" else None)
            assert status == 401 and headers["WWW-Authenticate"] == "Bearer" and "a token is needed" in body.decode()
        assert (await http("GET", f"{server.url}healthz"))[0] == 200
        bearer = {"Authorization": "Bearer s3cret"}
        assert (await http("POST", f"{server.url}transcribe?token=s3cret&format=text", data=audio))[2] == b"a b\n"
        assert (await http("GET", f"{server.url}info", headers=bearer))[0] == 200
        for url, options, status in (
            (server.url, {}, 401),
            (f"{server.url}?token=wrong", {}, 401),
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
        status, headers, _ = await http(
            "GET", f"{server.url}info?token=s3cret", headers={"Origin": "https://good.example"}
        )
        assert (status, headers["Access-Control-Allow-Origin"]) == (200, "https://good.example")
        status, headers, _ = await http(
            "GET", f"{server.url}info?token=s3cret", headers={"Origin": "https://evil.example"}
        )
        assert status == 403 and "Access-Control-Allow-Origin" not in headers
        # Before a page of another origin sends a token or a file, the browser asks for permission, without the token.
        asked = {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type, x-stainless-os,X-Stainless-Arch,x-other,"
            "x-stainless-",
        }
        for origin, status in (("https://good.example", 204), ("https://evil.example", 403)):
            found, headers, _ = await http("OPTIONS", f"{server.url}transcribe", headers=asked | {"Origin": origin})
            assert found == status
            assert headers.get("Access-Control-Allow-Origin") == (origin if status == 204 else None)
            assert headers.get("Access-Control-Allow-Headers") == (
                "Authorization, Content-Type, x-stainless-os, x-stainless-arch" if status == 204 else None
            )
        assert (await http("GET", f"{server.url}info%0AINFO%20forged"))[0] == 401
        assert not any(line.startswith("INFO forged") for line in server.log)
        assert not any("s3cret" in line for line in server.log)

    with ServerProcess(
        fake_archive, "--token_file", tmp_path / "token", "--allowed_origin", "https://good.example"
    ) as server:
        asyncio.run(run(server))


@pytest.mark.parametrize(("error", "level"), [(ConnectionResetError("closing"), "DEBUG"), (OSError("disk"), "ERROR")])
def test_a_client_that_left_is_no_error_of_the_server(
    error: OSError, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    """aiohttp answers `Expect: 100-continue` outside the routes, perhaps when the client has left."""
    handler = RequestHandler.__new__(RequestHandler)
    handler.logger = logging.getLogger("requests")
    with caplog.at_level("DEBUG"):
        handler.log_exception("%s: failed", "127.0.0.1", exc_info=error)
    assert [record.levelname for record in caplog.records] == [level]
