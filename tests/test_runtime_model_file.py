"""Recognising exported files and wrong ones, metadata, and what the runtime may import."""

import ast
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_model import FRAME, TOKENS, LoudnessModel, meta_record, save_model, speak

import wenet_fusion_runtime
from wenet_fusion_runtime import model_file
from wenet_fusion_runtime.model_file import AcousticModel, load_model, parse_meta, read_meta

PACKAGE = Path(wenet_fusion_runtime.__file__).parent


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "model.pt")


def test_a_loaded_file_equals_the_module_in_memory(model_path: Path) -> None:
    loaded, memory = load_model(model_path), AcousticModel(LoudnessModel().eval(), parse_meta(meta_record(), "memory"))
    samples = np.pad(speak("abcd"), (0, 8 * FRAME))[: 16 * FRAME]
    lengths = [16 * FRAME, 9 * FRAME + 1]
    outputs = [
        model.step(np.stack([samples, samples]), lengths, 8, 2, model.init_state(2, 8, 2))[0]
        for model in (loaded, memory)
    ]
    for one, other in zip(*outputs):
        np.testing.assert_array_equal(one, other)
    assert outputs[0].lengths.tolist() == [16, 10]
    scores, encoder_out = outputs[0].row(1)
    assert scores.log_probs.shape == (10, 5) and scores.blank.shape == (10,) and encoder_out.shape == (1, 10, 2)
    assert scores.log_probs.dtype == np.float32 and scores.ids.dtype == np.int64


def test_rescore_pads_hypotheses(model_path: Path) -> None:
    model = load_model(model_path)
    blocks = [torch.zeros(1, 3, 2), torch.zeros(1, 2, 2)]
    np.testing.assert_allclose(model.rescore(blocks, [(4, 3, 4), (), (4,)]), [[7, -47], [0, -50], [4, -49]])
    assert model.rescore(blocks, [()]).shape == (1, 2)


def test_step_clips_samples(model_path: Path) -> None:
    model, samples = load_model(model_path), 3 * np.ones((1, 4 * FRAME), dtype=np.float32)
    model.step(samples, [4 * FRAME], 4, 1, model.init_state(1, 4, 1))    # the model asserts the range
    assert samples.max() == 3


def test_nan_from_the_model_is_an_error(tmp_path: Path) -> None:
    model = load_model(save_model(tmp_path / "model.pt", module=LoudnessModel(sharpness=float("nan"))))
    step, _ = model.step(np.zeros((1, 4 * FRAME)), [4 * FRAME], 4, 1, model.init_state(1, 4, 1))
    with pytest.raises(ValueError, match="not a number"):
        step.row(0)


def test_a_module_in_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match=r"training mode; call its eval\(\)"):
        AcousticModel(LoudnessModel(), parse_meta(meta_record(), "memory"))


def test_meta(model_path: Path) -> None:
    meta = read_meta(model_path)
    assert (meta.sample_rate, meta.frame_samples, meta.chunk_sizes) == (8000, 320, (4, 8))
    assert (meta.default_chunk, meta.default_left, meta.left(4), meta.left(5)) == (8, 2, 4, 4)
    assert meta.frame_seconds == 0.04 and meta.units.tokens == tuple(TOKENS)
    for pair in meta.chunkings:
        meta.check_chunk(*pair)
    for chunk, left in ((5, 1), (4, 3), (4, 5), (8, 0)):
        meta.check_chunk(chunk, left, allow_untrained=True)
        with pytest.raises(ValueError, match=f"chunk {chunk} with left context {left}: .* choose one of 4/4, 8/2"):
            meta.check_chunk(chunk, left)
    with pytest.raises(ValueError, match="chunk 0 must be at least 1"):
        meta.check_chunk(0, 1, allow_untrained=True)


def test_left_context_is_looked_up_for_trained_sizes() -> None:
    pairs = [{"size": 8, "left": 4}, {"size": 8, "left": 8}, {"size": 12, "left": 6}]
    meta = parse_meta(meta_record() | {"chunkings": pairs, "default_chunking": pairs[2]}, "memory")
    assert meta.chunk_sizes == (8, 12) and meta.chunkings == ((8, 4), (8, 8), (12, 6))
    assert [meta.left(8), meta.left(12), meta.left(6)] == [8, 6, 12]    # from the default alone 8 would have 9


@pytest.mark.parametrize("key", [key for key in meta_record()])
def test_a_missing_key_is_named(key: str) -> None:
    record = meta_record()
    del record[key]
    with pytest.raises(ValueError, match=f"model.pt: meta.json has no key '{key}'; export the model again"):
        parse_meta(record, "model.pt")


def test_a_record_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="model.pt: meta.json: .*; export the model again"):
        parse_meta(["a", "list"], "model.pt")
    with pytest.raises(ValueError, match="model.pt: meta.json: is a 'x', this runtime .*; export the model again"):
        parse_meta({"kind": "x"}, "model.pt")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"format": 2}, "has format 2, this runtime reads 1; update wenet-fusion-runtime"),
        ({"format": 0}, "has format 0, this runtime reads 1; export the model again"),
        ({"chunkings": []}, r"default_chunking \(8, 2\) is not among chunkings"),
        ({"kind": "other"}, "is a 'other', this runtime runs 'wenet_fusion.torchscript'"),
        ({"blank": 5}, "blank and sos_eos must be 0 and 2, found 5 and 2"),
        ({"sample_rate": None}, "not 'NoneType'; export the model again"),
        ({"sample_rate": "fast"}, "invalid literal .* 'fast'; export the model again"),
        ({"units": ["a"]}, "first three units"),
        ({"decoding": 1.0}, "not subscriptable"),
    ],
)
def test_wrong_values_are_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        parse_meta(meta_record() | change, "model.pt")
    assert str(error.value).startswith("model.pt: meta.json: ")


def test_files_that_are_no_exported_model(tmp_path: Path, model_path: Path) -> None:
    (tmp_path / "empty.pt").touch()
    (tmp_path / "random.pt").write_bytes(np.random.default_rng(0).bytes(2000))
    (tmp_path / "cut.pt").write_bytes(model_path.read_bytes()[:-500])
    torch.save({"model": LoudnessModel().state_dict()}, tmp_path / "checkpoint.pt")
    torch.jit.save(torch.jit.script(LoudnessModel().eval()), str(tmp_path / "foreign.zip"))
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    save_model(tmp_path / "newer.pt", meta_record() | {"format": 9})
    for name, kind, message in (
        ("missing.pt", OSError, "no such model file"),
        (".", OSError, "is a directory; give the exported file in it"),
        ("empty.pt", ValueError, "is empty; export the model again"),
        ("random.pt", ValueError, "is no exported model, or a damaged one; export it first"),
        ("cut.pt", ValueError, "is no exported model, or a damaged one"),
        ("checkpoint.pt", ValueError, "is a training checkpoint; export it first: wenet-fusion export CHECKPOINT OUT"),
        ("foreign.zip", ValueError, "is TorchScript without meta.json"),
        ("other.zip", ValueError, "is a zip archive but no exported model"),
        ("newer.pt", ValueError, "update wenet-fusion-runtime"),
    ):
        with pytest.raises(kind, match=message) as error:
            load_model(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)


def test_damage_inside_a_file_is_reported(tmp_path: Path, model_path: Path) -> None:
    with zipfile.ZipFile(model_path) as source, zipfile.ZipFile(tmp_path / "damaged.pt", "w") as target:
        for name in source.namelist():
            target.writestr(name, b"damaged" if name.endswith("data.pkl") else source.read(name))
    with pytest.raises(ValueError, match="damaged.pt: torch .* cannot load it .*; export the model again"):
        load_model(tmp_path / "damaged.pt")
    with zipfile.ZipFile(model_path) as source, zipfile.ZipFile(tmp_path / "json.pt", "w") as target:
        for name in source.namelist():
            target.writestr(name, b"{" if name.endswith("meta.json") else source.read(name))
    with pytest.raises(ValueError, match="json.pt: its meta.json is damaged"):
        load_model(tmp_path / "json.pt")


def test_a_missing_engine_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_file, "QUANTISED_ENGINES", ("abacus",))
    save_model(tmp_path / "model.pt", meta_record() | {"engine": "abacus"})
    with pytest.raises(ValueError, match="needs the engine abacus, .* export with precision float32"):
        load_model(tmp_path / "model.pt")


WITHOUT_TORCH = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchaudio", "wenet_fusion"):
            raise ModuleNotFoundError(f"blocked: {name}", name=name)

sys.meta_path.insert(0, Blocker())
import wenet_fusion_runtime, wenet_fusion_runtime.cli as cli
assert cli.main(["info", sys.argv[1]]) == 0
try:
    wenet_fusion_runtime.Recognizer(sys.argv[1])
except ImportError as error:
    print(error)
"""


def test_without_torch_it_imports_reads_meta_and_says_what_to_install(model_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, str(model_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "8000 Hz" in done.stdout
    assert "pip install 'wenet-fusion-runtime[torch]'" in done.stdout


def imported_modules(source: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
    return {name.partition(".")[0] for name in found}


def test_the_runtime_imports_nothing_above_it() -> None:
    allowed = {"wenet_fusion_runtime", "numpy", "soundfile", "soxr", "__future__"} | set(sys.stdlib_module_names)
    for path in PACKAGE.glob("*.py"):
        foreign = imported_modules(path.read_text(encoding="utf-8")) - allowed
        assert foreign <= ({"torch"} if path.name in ("model_file.py", "decoding.py") else set()), path.name
    assert imported_modules("def f():\n    import wenet_fusion.nn\n") == {"wenet_fusion"}


def test_files_stay_short() -> None:
    assert max(len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.glob("*.py")) <= 300


def test_meta_json_is_in_the_file_as_written(model_path: Path) -> None:
    with zipfile.ZipFile(model_path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("extra/meta.json"))
        assert json.loads(archive.read(name)) == meta_record()
