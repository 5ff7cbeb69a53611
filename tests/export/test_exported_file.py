"""The metadata of an exported file, and the messages for files of other programs and damaged ones."""

import dataclasses
import json
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DIGITS, TINY_UNITS
from support.model.streams import audio
from wenet_fusion_runtime.model.model_file import load_model, parse_meta, read_meta
from wenet_fusion_runtime.results.vocabulary import Vocabulary
from wenet_fusion_runtime.stream.offline import transcribe_offline

from wenet_fusion.config import config_from_yaml
from wenet_fusion.export.flow import export_model
from wenet_fusion.export.target import ExportOptions
from wenet_fusion.model.chunking import Chunking, ChunkingConfig, draw_chunking
from wenet_fusion.recipe import RecipeConfig
from wenet_fusion.trained_model import TrainedModel, acoustic_model, meta_record


def test_meta_round_trips(exported: Path, trained: TrainedModel) -> None:
    with zipfile.ZipFile(exported) as archive:
        name = next(name for name in archive.namelist() if name.endswith("extra/meta.json"))
        record = json.loads(archive.read(name))
    verification = record["verification"]
    assert record == {**meta_record(trained, {}), "verification": verification}
    assert config_from_yaml(RecipeConfig, record["config"], "meta.json") == trained.config
    assert verification["largest_difference"] <= verification["tolerance"] == 1e-4
    assert (verification["different_tokens"], verification["norm_operators"], verification["chunk_sizes"]) == (
        0,
        0,
        [4, 8],
    )
    assert verification["frames"] > 300 and verification["operators"]["aten::linear"] > 10

    meta = read_meta(exported)
    assert meta == parse_meta(record, str(exported))
    assert (meta.sample_rate, meta.frame_samples, meta.right_padding_samples) == (8000, 320, 4 * 320)
    assert (meta.chunk_sizes, meta.default_chunk, meta.default_left) == ((4, 8), 8, 2)
    assert [meta.left(size) for size in meta.chunk_sizes] == [4, 2]
    assert (meta.decoder, meta.reverse_decoder, meta.reverse_weight) == (
        True,
        True,
        trained.config.model.loss.reverse_weight,
    )
    assert meta.vocabulary.tokens == TINY_UNITS and meta.vocabulary.text([3, 12]) == f"{DIGITS[0]} {DIGITS[-1]}"
    assert meta.latency["8"]["longest_wait_ms"] == 320.0


def test_other_chunk_sizes_keep_their_own_left_context(trained: TrainedModel) -> None:
    for sizes, lefts in (((6, 16), (64,)), ((8, 12), (64,)), ((12, 8), (32, 64))):
        chunking = ChunkingConfig(sizes, lefts, full_context_probability=0.0)
        config = dataclasses.replace(
            trained.config, training=dataclasses.replace(trained.config.training, chunking=chunking)
        )
        meta = parse_meta(meta_record(dataclasses.replace(trained, config=config), {}), "memory")
        assert [Chunking(size, meta.left(size)) for size in meta.chunk_sizes] == chunking.served()
        assert Chunking(meta.default_chunk, meta.default_left) == chunking.served()[-1]
        drawn = {draw_chunking(chunking, random.Random(seed)) for seed in range(100)}
        assert set(meta.chunkings) == drawn and len(meta.chunkings) == len(sizes) * len(lefts)


BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "wenet_fusion":
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
import numpy as np
from wenet_fusion_runtime import Recognizer

stream = Recognizer(sys.argv[1]).create_stream(8)
for block in np.split(np.load(sys.argv[2]), [1000, 1001, 9000]):
    stream.accept_waveform(block)
stream.finish()
print(stream.text)
try:
    import wenet_fusion
except ImportError:
    print("blocked")
"""


def test_a_process_without_this_package_runs_the_file(exported: Path, trained: TrainedModel, tmp_path: Path) -> None:
    np.save(tmp_path / "audio.npy", audio())
    command = [sys.executable, "-c", BLOCKED, str(exported), str(tmp_path / "audio.npy")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    expected = " ".join(result.text for result in transcribe_offline(acoustic_model(trained), audio(), 8, 2))
    assert done.stdout.splitlines() == [expected, "blocked"], done.stderr


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_named(exported: Path, tmp_path: Path, share: float) -> None:
    content, path = exported.read_bytes(), tmp_path / "cut.pt"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=f"{path}: is (empty|not an exported model, or is damaged); export"):
        load_model(path)


def test_a_checkpoint_is_no_exported_model(trained: TrainedModel, tmp_path: Path) -> None:
    torch.save({"weights": trained.model.state_dict()}, tmp_path / "step_1.pt")
    with pytest.raises(ValueError, match="step_1.pt: is a training checkpoint; export it first: wenet-fusion export"):
        load_model(tmp_path / "step_1.pt")
    with pytest.raises(FileNotFoundError, match="nothing.pt: no such model file"):
        load_model(tmp_path / "nothing.pt")


@pytest.mark.parametrize("target", ["torchscript", "onnx"])
def test_a_vocabulary_of_another_model_is_refused(trained: TrainedModel, tmp_path: Path, target: str) -> None:
    """A swapped meta.json would give fluent nonsense if its vocabulary has another order or another size."""
    path, changed = tmp_path / "model.zip", tmp_path / "changed.zip"
    export_model(trained, path, ExportOptions(target))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in members if name.endswith("meta.json"))
    record = json.loads(members[name])

    def message(units: list[str], checksum: dict[str, str]) -> str:
        """Return what loading a file with these units says."""
        other = {key: value for key, value in record.items() if key != "units_sha256"}
        with zipfile.ZipFile(changed, "w", zipfile.ZIP_STORED) as archive:
            for member, content in members.items():
                new = json.dumps({**other, "units": units, **checksum}).encode()
                archive.writestr(member, new if member == name else content)
        try:
            load_model(changed)
        except ValueError as error:
            return str(error)
        return "loaded"

    units, own = record["units"], {"units_sha256": record["units_sha256"]}
    assert message(units, own) == message(units, {}) == "loaded", "files of earlier versions have no checksum"
    swapped = [*units[:3], units[4], units[3], *units[5:]]
    for other in (swapped, units[:-1], [*units, "more"]):
        assert "its units are not those that were exported with the model; export the model again" in message(
            other, own
        )
    for other in (units[:-1], [*units, "more"]):
        checksum = {"units_sha256": Vocabulary(other, "words").sha256}  # a whole meta.json of another model
        for found in (message(other, checksum), message(other, {})):
            assert found.startswith(f"{changed}: meta.json has {len(other)} units, the model scores {len(units)}: they")
