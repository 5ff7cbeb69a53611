"""Downloads of corpora: interrupted downloads continue, wrong files are refused, archives appear complete."""

import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import fetch_corpus
import pytest


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `files` by name, from the middle where asked; cuts each answer after `limit` bytes."""

    files: dict[str, bytes] = {}
    limit = 1 << 30
    served = 0

    def do_GET(self) -> None:
        content = self.files.get(self.path.rsplit("/", 1)[1])
        if content is None:
            self.send_error(404)
            return
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        body = content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        type(self).served += len(body[: self.limit])
        self.wfile.write(body[: self.limit])

    def log_message(self, *args: object) -> None:
        pass


class Server:
    """A server on this machine and the folder that its files are downloaded to."""

    def __init__(self, url: str, handler: type[Handler], folder: Path):
        self.url, self.handler, self.folder = url, handler, folder

    def fetch(self, *names: str, urls: tuple[str, ...] = (), checksums: dict[str, str] | None = None) -> None:
        """Run the command."""
        if checksums is None:
            checksums = {name: hashlib.md5(content).hexdigest() for name, content in self.handler.files.items()}
        table = self.folder.parent / "md5sum.txt"
        table.write_text("# known\n" + "".join(f"{value}  {name}\n" for name, value in checksums.items()))
        arguments = ["--url", *(urls or (self.url,)), "--checksums", table, "--folder", self.folder, *names]
        assert fetch_corpus.main(list(map(str, arguments))) == 0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    handler = type("OwnHandler", (Handler,), {"files": {}})
    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True).start()
    yield Server(f"http://127.0.0.1:{listening.server_port}/resources/12", handler, tmp_path / "corpus")
    listening.shutdown()
    listening.server_close()


def pack(files: dict[str, bytes]) -> bytes:
    """Return a compressed tar of files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_parts_and_the_archives_in_them_are_unpacked_beside_each_other(server: Server) -> None:
    speaker = pack({"train/S1/a.wav": b"audio"})
    server.handler.files = {
        "dev.tar.gz": pack({"LibriSpeech/README": b"1", "LibriSpeech/dev/1/2/a.flac": b"dev"}),
        "test.tgz": pack({"LibriSpeech/README": b"2", "LibriSpeech/test/b.flac": b"test", "wav/S1.tar.gz": speaker}),
        "lm.arpa.gz": b"not an archive",
    }
    server.fetch("dev.tar.gz", "test.tgz", "lm.arpa.gz")
    assert tree(server.folder) == {
        "LibriSpeech/README": b"2", "LibriSpeech/dev/1/2/a.flac": b"dev", "LibriSpeech/test/b.flac": b"test",
        "wav/train/S1/a.wav": b"audio", "lm.arpa.gz": b"not an archive",
    }  # fmt: skip


def test_a_download_that_is_cut_off_goes_on_within_and_between_calls(server: Server) -> None:
    content = bytes(range(256)) * 1000
    server.handler.files, server.handler.limit = {"lm.txt.gz": content}, len(content) // 3
    server.fetch("lm.txt.gz")
    assert tree(server.folder) == {"lm.txt.gz": content} and server.handler.served == len(content)
    (server.folder / "lm.txt.gz").rename(server.folder / "lm.txt.gz.part")
    (server.folder / "lm.txt.gz.part").write_bytes(content[:100_000])
    server.handler.limit, server.handler.served = 0, 0
    with pytest.raises(OSError, match="lm.txt.gz cannot be downloaded .*run the same command again to go on"):
        server.fetch("lm.txt.gz")
    assert (server.folder / "lm.txt.gz.part").stat().st_size == 100_000
    server.handler.limit = 1 << 30
    server.fetch("lm.txt.gz")
    assert tree(server.folder) == {"lm.txt.gz": content} and server.handler.served == len(content) - 100_000


def test_the_next_mirror_is_taken(server: Server) -> None:
    server.handler.files = {"a.txt": b"text"}
    server.fetch("a.txt", urls=("http://127.0.0.1:9/resources/12", server.url))
    assert tree(server.folder) == {"a.txt": b"text"}
    with pytest.raises(OSError, match=r"b.txt cannot be downloaded \(.*/b.txt: .*pass its folder with --data"):
        server.fetch("b.txt", checksums={"b.txt": "0" * 32})


def test_another_file_is_refused_and_deleted(server: Server) -> None:
    server.handler.files = {"dev.tar.gz": b"<html>please log in</html>"}
    with pytest.raises(ValueError, match="its md5 is .*, expected 0000.*; it is deleted"):
        server.fetch("dev.tar.gz", checksums={"dev.tar.gz": "0" * 32})
    assert tree(server.folder) == {}
    with pytest.raises(ValueError, match="its sha256 is .*, expected 0000"):
        server.fetch("dev.tar.gz", checksums={"dev.tar.gz": "0" * 64})
    with pytest.raises(ValueError, match=r"other.tar.gz: no checksum is known; choose from dev.tar.gz"):
        server.fetch("other.tar.gz")
    with pytest.raises(ValueError, match=r"md5sum.txt:2: .*: expected the output of md5sum"):
        server.fetch("dev.tar.gz", checksums={"dev.tar.gz": "abc"})


@pytest.mark.parametrize("outside", ["../evil.txt", "/evil.txt"])
def test_members_stay_in_the_folder(server: Server, outside: str) -> None:
    name = outside if outside.startswith(".") else f"{server.folder.parent}{outside}"
    server.handler.files = {"dev.tar.gz": pack({"LibriSpeech/a.txt": b"1", name: b"2"})}
    with pytest.raises(ValueError, match="leads out of the folder"):
        server.fetch("dev.tar.gz")
    assert not (server.folder / "LibriSpeech").exists() and not (server.folder.parent / "evil.txt").exists()


def test_a_damaged_archive_leaves_no_folder(server: Server) -> None:
    whole = pack({"LibriSpeech/dev/a.flac": bytes(range(256)) * 999})
    server.handler.files = {"dev.tar.gz": whole[: len(whole) // 2]}
    with pytest.raises(ValueError, match="damaged .*; delete it and run the same command again"):
        server.fetch("dev.tar.gz")
    assert not (server.folder / "LibriSpeech").exists()
