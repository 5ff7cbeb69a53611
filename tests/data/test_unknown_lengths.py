"""Audio whose header states no length, or a wrong one: measured by decoding, in lists, checks and training alike."""

import io
import json

import numpy as np
import pytest
import soundfile
from support.recipes.scripts import load_script
from wenet_fusion_runtime.results.vocabulary import Vocabulary

from wenet_fusion.data.dataset import SpeechDataset
from wenet_fusion.data.judgement import FrontendGeometry
from wenet_fusion.data.lists.manifest import read_manifest, scan_manifest
from wenet_fusion.text.tokenizer import CharTokenizer

RATE = 8000
FRONTEND = FrontendGeometry(sample_rate=RATE, frame_samples=320, right_padding_samples=640)
TOKENIZER = CharTokenizer(Vocabulary(("<blank>", "<unk>", "<sos/eos>", "one"), "words", "units.txt"))


def flac() -> bytes:
    """Return FLAC as an encoder writes it to a pipe: STREAMINFO states 0 samples and has no checksum."""
    content = bytearray(encoded("FLAC"))
    assert content[4:5] in (b"\x00", b"\x80"), "STREAMINFO comes first"
    content[21] &= 0xF0
    content[22:42] = bytes(20)
    return bytes(content)


def wav() -> bytes:
    """Return WAV whose header was never finished: its sizes are 0."""
    content = bytearray(encoded("WAV"))
    data = content.index(b"data") + 4
    content[4:8] = content[data : data + 4] = bytes(4)
    return bytes(content)


def encoded(kind: str) -> bytes:
    """Return 1.5 s of noise."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, 12000)
    soundfile.write(buffer, noise, RATE, format=kind, subtype="PCM_16")
    return buffer.getvalue()


@pytest.mark.parametrize("name, make", [("u1.flac", flac), ("u1.wav", wav)])
def test_unknown_lengths_are_measured(tmp_path, monkeypatch, name, make, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(make())
    (tmp_path / "wav.scp").write_text(f"u1 {name}\n")
    (tmp_path / "text").write_text("u1 one\n")
    load_script("make_raw_list").main(["wav.scp", "text", "raw.list"])
    assert json.loads((tmp_path / "raw.list").read_text())["duration"] == 1.5 and "0.00 h" in capsys.readouterr().out
    load_script("make_shard_list").main(["wav.scp", "text", "shards", "shard.list"])
    believed = {"key": "u1", "wav": name, "txt": "one", "duration": 1e8}
    (tmp_path / "believed.list").write_text(json.dumps(believed) + "\n")
    for listed in ("raw.list", "shard.list", "believed.list"):
        dataset = SpeechDataset(read_manifest(tmp_path / listed, "auto"), TOKENIZER, FRONTEND)
        dataset.decode_all()
        assert (dataset.used()[0], dataset.seconds, dataset.skipped) == (1, [1.5], [])
        assert dataset.batch([0], 0).sample_lengths_B.tolist() == [12000 + 640]
    assert scan_manifest(tmp_path / "shard.list").utterances[0].seconds == 1.5
