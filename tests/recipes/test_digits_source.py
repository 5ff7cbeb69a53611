"""Stage -1 of the digits recipe: where the recordings come from."""

import errno
import http.server
import importlib.util
import json
import shutil
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import prepare_data
import pytest
import soundfile
from recordings import digest, list_takes, recordings_folder
from support.recipes.toy_digits import FILES, RATE, write_checkout
from synthesise import SAMPLE_RATE, Espeak, Manner, synthesise, trim

needs_espeak = pytest.mark.skipif(
    importlib.util.find_spec("espeakng_loader") is None,
    reason="espeakng-loader is missing: pip install -c constraints.txt -e '.[recipes]'",
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of a tiny corpus."""
    return write_checkout(tmp_path_factory.mktemp("corpus"))


def test_prepare_describes_a_checkout(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "source.json"
    assert prepare_data.main(["--data", str(corpus), "--folder", str(tmp_path), "--output", str(output)]) == 0
    source = json.loads(output.read_text())
    assert (source["kind"], source["files"], source["speakers"]) == ("recorded", FILES, ["ann", "bob"])
    assert source["sample_rate"] == RATE and source["recordings"] == str((corpus / "recordings").resolve())
    assert "RECORDED SPEECH" in capsys.readouterr().out


def test_bad_folders_are_named(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent: no such folder; --data takes"):
        prepare_data.prepare(str(tmp_path / "absent"), tmp_path)
    with pytest.raises(OSError, match="no file named like 7_jackson_32.wav"):
        recordings_folder(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(corpus, copy)
    (copy / "recordings" / "3_ann_2.wav").write_bytes(b"")
    (copy / "recordings" / "4_bob_6.wav").write_bytes(b"no audio")
    with pytest.raises(ValueError, match=r"(?s)2 of 280 recordings cannot be used; fetch .*3_ann_2.wav.*4_bob_6.wav"):
        prepare_data.prepare(str(copy), tmp_path)
    for index in range(5, 10):
        (copy / "recordings" / f"4_bob_{index}.wav").unlink()
    with pytest.raises(ValueError, match="bob: digit 4, dev; the copy is incomplete"):
        prepare_data.prepare(str(copy), tmp_path)


def test_recordings_share_one_sample_rate(corpus: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(corpus, copy)
    soundfile.write(copy / "recordings" / "3_ann_20.wav", np.ones(900) / 2, 16000)
    with pytest.raises(ValueError, match="sample rates differ: .*16000: 1"):
        prepare_data.prepare(str(copy), tmp_path)


class RangeHandler(http.server.BaseHTTPRequestHandler):
    """Serves `content`, from the middle where asked; cuts the connection after `limit` bytes."""

    content = b""
    limit = 1 << 30
    served = 0

    def do_GET(self) -> None:
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        body = self.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        type(self).served += len(body[: self.limit])
        self.wfile.write(body[: self.limit])

    def log_message(self, *args: object) -> None:
        pass


class Release(NamedTuple):
    url: str
    handler: type[RangeHandler]  # the handler of this server only


@pytest.fixture
def release(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Release]:
    """A server on this machine with an archive of the corpus, accepted as the known release."""
    archive = tmp_path / "v1.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(corpus / "recordings", "digits-1/recordings")
    handler = type("Handler", (RangeHandler,), {"content": archive.read_bytes()})
    monkeypatch.setattr(prepare_data, "RECORDINGS_SHA256", digest(list_takes(corpus / "recordings")))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield Release(f"http://127.0.0.1:{server.server_port}/v1.tar.gz", handler)
    server.shutdown()
    server.server_close()


def test_download_goes_on_after_an_interruption(release: Release, tmp_path: Path) -> None:
    url, handler = release
    handler.limit = len(handler.content) // 2
    with pytest.raises(OSError):
        prepare_data.download(tmp_path / "fsdd", url)
    assert not (tmp_path / "fsdd" / "recordings").exists()
    handler.limit, first = 1 << 30, handler.served
    recordings = prepare_data.download(tmp_path / "fsdd", url)
    assert len(list(recordings.iterdir())) == FILES
    assert 0 < first < handler.served == len(handler.content)
    assert prepare_data.download(tmp_path / "fsdd", url) == recordings and handler.served == len(handler.content)


def test_another_release_is_refused_and_removed(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, handler = release
    monkeypatch.setattr(prepare_data, "RECORDINGS_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="not the release that this recipe knows .*--data"):
        prepare_data.download(tmp_path / "fsdd", url)
    handler.content = b"<html>please log in</html>"
    with pytest.raises(ValueError, match="not the release that this recipe knows"):
        prepare_data.download(tmp_path / "fsdd", url)
    assert not (tmp_path / "fsdd" / "recordings").exists() and not (tmp_path / "fsdd" / "v1.tar.gz").exists()


def test_a_full_disk_is_not_taken_for_a_missing_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(url: str, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(prepare_data, "fetch", fill)
    with pytest.raises(OSError, match="No space left"):
        prepare_data.prepare("", tmp_path)


def test_without_a_network_speech_is_synthetic_and_says_so(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    made = []

    def refuse(url: str, target: Path) -> None:
        raise OSError("Network is unreachable")

    def pretend(folder: Path) -> None:
        made.append(folder)
        shutil.copytree(corpus / "recordings", folder)

    monkeypatch.setattr(prepare_data, "fetch", refuse)
    monkeypatch.setattr(prepare_data, "synthesise", pretend)
    arguments = ["--folder", str(tmp_path / "data"), "--output", str(tmp_path / "data" / "source.json")]
    for _ in range(2):
        assert prepare_data.main(arguments) == 0
    source = json.loads((tmp_path / "data" / "source.json").read_text())
    assert source["kind"] == "synthetic" and "Network is unreachable" in source["why"]
    assert "SYNTHETIC SPEECH" in capsys.readouterr().out
    assert len(made) == 1  # the second call found the recordings


def test_trim_cuts_what_is_quiet() -> None:
    word = np.concatenate([np.zeros(4000), np.full(800, 0.5), np.full(4000, 0.001)])
    assert len(trim(word, RATE)) == 800 + 2 * 80
    assert len(trim(np.zeros(100), RATE)) == 0


@needs_espeak
def test_synthetic_takes_have_the_corpus_layout(tmp_path: Path) -> None:
    assert synthesise(tmp_path / "synthetic", ("en-us+m3", "en-gb-scotland+f2"), takes=2) == 40
    paths = sorted((tmp_path / "synthetic").iterdir())
    assert len(paths) == 40 and paths[0].name == "0_en-gb-scotland-f2_0.wav"
    for path in paths:
        samples, rate = soundfile.read(path)
        assert rate == SAMPLE_RATE == RATE
        assert 0.1 < len(samples) / rate < 1.5
        loud = np.flatnonzero(np.abs(samples) > 0.009 * np.abs(samples).max())
        assert loud[0] < 0.03 * rate and loud[-1] > len(samples) - 0.03 * rate
    assert len({path.read_bytes() for path in paths}) == 40


@needs_espeak
def test_a_voice_that_espeak_lacks_is_named() -> None:
    with pytest.raises(OSError, match="no voice atlantean\\+m1"):
        Espeak().say("one", "atlantean+m1", Manner(160, 50, 50))


def test_recorded_digits_are_the_known_release(recorded_data: Path) -> None:
    source = prepare_data.prepare(str(recorded_data / "fsdd"), Path())
    assert (source.kind, source.files, source.sample_rate) == ("recorded", 2500, 8000)
    assert source.sha256 == prepare_data.RECORDINGS_SHA256
