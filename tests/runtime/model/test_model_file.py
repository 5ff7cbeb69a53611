"""Opening exported files and wrong ones, required packages, and imports of the runtime."""

import ast
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import wenet_fusion_runtime
from support.runtime.fake_model import (
    SAMPLE_RATE,
    SAVERS,
    LoudnessModel,
    meta_record,
    onnx_graphs,
    onnx_record,
    save_archive,
    save_model,
    speak,
    write_zip,
)
from wenet_fusion_runtime.model.metadata import parse_meta
from wenet_fusion_runtime.model.model_file import load_model, read_meta

PACKAGE = Path(wenet_fusion_runtime.__file__).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file of each kind, and a recording."""
    path = tmp_path_factory.mktemp("models")
    for kind, save in SAVERS.items():
        save(path / kind)
    soundfile.write(path / "speech.wav", speak("abcd"), SAMPLE_RATE)
    return path


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_files_that_are_not_exported_models_are_refused(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty.pt").touch()
    (tmp_path / "random.pt").write_bytes(np.random.default_rng(0).bytes(2000))
    for kind in SAVERS:
        (tmp_path / f"cut.{kind}").write_bytes((folder / kind).read_bytes()[:-500])
    torch.save({"model": LoudnessModel().state_dict()}, tmp_path / "checkpoint.pt")
    torch.jit.save(torch.jit.script(LoudnessModel().eval()), str(tmp_path / "foreign.zip"))
    torch.export.save(torch.export.export(torch.nn.ReLU(), (torch.zeros(1),)), tmp_path / "program.pt2")
    write_zip(tmp_path / "other.zip", {"readme.txt": b"hello"})
    save_model(tmp_path / "newer.pt", meta_record() | {"format": 9})
    save_archive(tmp_path / "newer.onnx", onnx_record() | {"format": 9})
    for name in ("encoder.onnx", "renamed.bin"):
        (tmp_path / name).write_bytes(onnx_graphs()["rescore.onnx"])
    graphs = onnx_graphs()
    meta = {"meta.json": json.dumps(onnx_record()).encode()}
    write_zip(tmp_path / "no_meta.zip", graphs)
    write_zip(tmp_path / "no_step.zip", meta)
    write_zip(tmp_path / "no_rescore.zip", meta | {"step.onnx": graphs["step.onnx"]})
    save_archive(tmp_path / "mixed.zip", meta_record())
    for name, kind, message in (
        ("missing.pt", OSError, "no such model file"),
        (".", OSError, "is a directory; give the exported file in it"),
        ("empty.pt", ValueError, "is empty; export the model again"),
        ("random.pt", ValueError, "is not an exported model, or is damaged; export it first"),
        ("cut.torchscript", ValueError, "is not an exported model, or is damaged"),
        ("cut.onnx", ValueError, "is not an exported model, or is damaged"),
        ("checkpoint.pt", ValueError, "is a training checkpoint; export it first: wenet-fusion export CHECKPOINT OUT"),
        ("program.pt2", ValueError, "is a torch.export program, .* export without --format pt2"),
        ("foreign.zip", ValueError, "is TorchScript without meta.json"),
        ("other.zip", ValueError, "is a zip archive but not an exported model"),
        ("newer.pt", ValueError, "update wenet-fusion-runtime"),
        ("newer.onnx", ValueError, "update wenet-fusion-runtime"),
        ("encoder.onnx", ValueError, "is a single ONNX graph, such as those for WeNet's .* export with --format onnx"),
        ("renamed.bin", ValueError, "is a single ONNX graph"),
        ("no_meta.zip", ValueError, "is an ONNX archive without meta.json; export the model again"),
        ("no_step.zip", ValueError, "is an ONNX archive without step.onnx; export the model again"),
        ("no_rescore.zip", ValueError, "has no rescore.onnx; export the model again"),
        ("mixed.zip", ValueError, "meta.json says 'wenet_fusion.torchscript', the file is 'wenet_fusion.onnx'"),
    ):
        with pytest.raises(kind, match=message) as error:
            load_model(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize(
    "kind, member, content, message",
    [
        ("torchscript", "data.pkl", b"damaged", "torch .* cannot load it .*; export the model again"),
        ("torchscript", "meta.json", b"{", "its meta.json is damaged .*; export the model again"),
        ("onnx", "meta.json", b"{", "its meta.json is damaged .*; export the model again"),
        ("onnx", "step.onnx", b"damaged", "step.onnx: onnxruntime .* cannot load it .*; update onnxruntime or export"),
        ("onnx", "rescore.onnx", b"damaged", "rescore.onnx: onnxruntime .* cannot load it"),
    ],
)
def test_a_wrong_member_is_reported(
    tmp_path: Path, folder: Path, kind: str, member: str, content: bytes, message: str
) -> None:
    path = tmp_path / "damaged.zip"
    write_zip(path, {name: content if name.endswith(member) else old for name, old in members(folder / kind).items()})
    with pytest.raises(ValueError, match=f"{path}: {message}"):
        load_model(path)


def test_a_flipped_bit_in_a_graph_is_found(tmp_path: Path, folder: Path) -> None:
    content = bytearray((folder / "onnx").read_bytes())
    content[content.index(onnx_graphs()["step.onnx"]) + 100] ^= 1
    (tmp_path / "flipped.zip").write_bytes(content)
    with pytest.raises(ValueError, match="flipped.zip: step.onnx is damaged .Bad CRC-32.*; copy or export the file"):
        load_model(tmp_path / "flipped.zip")


def test_positions_before_the_file_are_damage(tmp_path: Path, folder: Path) -> None:
    """The system's error for such a position names neither the file nor the cause."""
    (tmp_path / "cut.zip").write_bytes((folder / "onnx").read_bytes()[1:])
    with pytest.raises(ValueError, match="cut.zip: meta.json is damaged .*; copy or export the file again"):
        read_meta(tmp_path / "cut.zip")


def test_an_archive_may_have_any_name_and_compression(tmp_path: Path, folder: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.onnx", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members(folder / "onnx").items():
            archive.writestr(name, content)
    assert load_model(tmp_path / "model.onnx").meta == read_meta(folder / "onnx")


def test_an_archive_without_a_decoder_has_no_second_graph(tmp_path: Path) -> None:
    record = onnx_record() | {"decoder": False, "reverse_decoder": False}
    content = {"meta.json": json.dumps(record).encode(), "step.onnx": onnx_graphs()["step.onnx"]}
    model = load_model(write_zip(tmp_path / "model.zip", content))
    assert model.rescore([np.zeros((1, 1, 2), dtype=np.float32)], [(3,)]).tolist() == [[0, 0]]


@pytest.mark.parametrize(
    "precision, engine, message",
    [
        ("int8", "abacus", "precision int8 needs torch's engine abacus, this machine has "),
        ("float16-packed", "fbgemm", r"precision float16-packed needs torch's engine fbgemm \(an x86 .* AVX2\), "),
    ],
)
def test_a_missing_engine_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, engine: str, message: str
) -> None:
    monkeypatch.setattr(torch.backends.quantized.__class__, "supported_engines", ["qnnpack", "none"])
    path = save_model(tmp_path / "model.pt", meta_record() | {"precision": precision, "engine": engine})
    remedy = "; export with --precision float32, or with --format onnx for onnxruntime"
    with pytest.raises(ValueError, match=f"{path}: {message}.*qnnpack, none{remedy}"):
        load_model(path)
    save_model(path, meta_record() | {"precision": precision, "engine": "qnnpack"})
    load_model(path)  # only the engine is checked


BLOCKED = """
import sys

blocked = sys.argv[1].split(",")

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"blocked: {name}", name=name)

sys.meta_path.insert(0, Blocker())
import wenet_fusion_runtime.cli.__main__ as cli
for command in (["info", sys.argv[2]], ["transcribe", *sys.argv[2:]]):
    print("exit status", cli.main(command))
print("loaded", sorted({"torch", "onnxruntime", "wenet_fusion"} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    "kind, blocked, output, problem",
    [
        ("onnx", "torch,torchaudio,wenet_fusion", "a b c d\nexit status 0\nloaded ['onnxruntime']\n", ""),
        ("torchscript", "onnxruntime,onnx,wenet_fusion", "a b c d\nexit status 0\nloaded ['torch']\n", ""),
        (
            "onnx",
            "onnxruntime",
            "exit status 1\nloaded []\n",
            "error: this model runs on onnxruntime, which is not installed: pip install 'wenet-fusion-runtime[onnx]'\n",
        ),
        (
            "torchscript",
            "torch",
            "exit status 1\nloaded []\n",
            "error: this model runs on torch, which is not installed: pip install 'wenet-fusion-runtime[torch]'\n",
        ),
    ],
)
def test_a_process_needs_only_the_files_own_backend(
    folder: Path, kind: str, blocked: str, output: str, problem: str
) -> None:
    command = [sys.executable, "-c", BLOCKED, blocked, str(folder / kind), str(folder / "speech.wav")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, problem)
    info, _, rest = done.stdout.partition("exit status 0\n")
    assert "8000 Hz" in info and rest == output


def imported_modules(source: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
    return {name.partition(".")[0] for name in found}


def test_the_runtime_imports_nothing_above_it_and_each_extra_in_one_file() -> None:
    allowed = {"wenet_fusion_runtime", "numpy", "soundfile", "soxr", "__future__"} | set(sys.stdlib_module_names)
    extras = {
        "torch_backend.py": {"torch"},
        "onnx_backend.py": {"onnxruntime"},
        "microphone.py": {"sounddevice"},
        "language_model.py": {"kenlm"},
    }
    for path in PACKAGE.glob("*.py"):
        foreign = imported_modules(path.read_text(encoding="utf-8")) - allowed
        assert foreign == extras.get(path.name, set()), path.name
    assert imported_modules("def f():\n    import wenet_fusion.model.layers\n") == {"wenet_fusion"}


def test_files_stay_short() -> None:
    assert max(len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.glob("*.py")) <= 300


def test_meta_json_is_in_the_file_as_written(folder: Path) -> None:
    for kind, record in (("torchscript", meta_record()), ("onnx", onnx_record())):
        found = members(folder / kind)
        assert json.loads(found[next(name for name in found if name.endswith("meta.json"))]) == record


def test_a_flipped_bit_in_torchscript_is_found(tmp_path: Path) -> None:
    """torch would load the file without an error, with other numbers."""
    path = SAVERS["torchscript"](tmp_path / "model.pt")
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        weights = max(
            (info for info in archive.infolist() if "/constants/" in info.filename or "/data/" in info.filename),
            key=lambda info: info.file_size,
        )
        place = content.index(archive.read(weights))
    content[place + weights.file_size // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="model.pt: the checksum of .* is wrong: the file is damaged"):
        load_model(path)


@pytest.mark.parametrize(
    "change",
    [
        {"sample_rate": 0},
        {"frame_samples": -1},
        {"sample_rate": float("inf")},
        {"tail_samples": -1},
        {"chunkings": [{"size": 0, "left": 4}], "default_chunking": {"size": 0, "left": 4}},
    ],
)
def test_impossible_numbers_in_meta_are_refused(change: dict) -> None:
    with pytest.raises(ValueError, match="model.zip: meta.json: "):
        parse_meta({**meta_record(), **change}, "model.zip")


def test_a_huge_or_hostile_meta_is_refused(tmp_path: Path) -> None:
    for name, content, problem in (
        ("bomb", b" " * (17 << 20), "larger than 16 MiB"),
        ("deep", b"[" * 100000, "damaged"),
    ):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("meta.json", content)
            archive.writestr("step.onnx", b"")
        with pytest.raises(ValueError, match=f"{name}: its meta.json is {problem}"):
            read_meta(tmp_path / name)
