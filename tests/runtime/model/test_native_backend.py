"""int8 archives on the native step: which backend runs a file, and archives that are damaged."""

import importlib.util
import json
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from support.native.random_fused import Fused, random_fused
from support.runtime.fake_model import onnx_graphs, onnx_record, save_archive, save_model, write_zip
from wenet_fusion_runtime.cli.__main__ import main
from wenet_fusion_runtime.model.backends import BACKENDS
from wenet_fusion_runtime.model.conformance import ModelFault
from wenet_fusion_runtime.model.model_file import load_model
from wenet_fusion_runtime.model.native_backend import NativeBackend
from wenet_fusion_runtime.model.native_table import NATIVE, NativeTable, Placed
from wenet_fusion_runtime.model.onnx_backend import OnnxBackend
from wenet_fusion_runtime.model.torch_backend import TorchBackend

CHUNK, LEFT = 4, 2


@pytest.fixture(autouse=True)
def _measured(kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that the native step was measured to be faster on this processor."""
    monkeypatch.setattr(kernels, "is_measured", lambda: True)


Change = Callable[[dict[str, Any]], None]


def save_native(kernels: ModuleType, path: Path, change: Change | None = None, **sizes: int) -> Fused:
    """Save a random model as an archive for the native step. Its step.onnx holds the tensors, and no graph."""
    record = onnx_record()
    sizes = {"vocabulary": len(record["units"]), "top": 2, "hop": record["frame_samples"] // 4} | sizes
    model = random_fused(kernels, 0, **sizes)
    places, step = [], b"graph"
    for tensor in model.tensors:
        places.append(Placed(str(tensor.dtype), tensor.shape, len(step)))
        step += tensor.tobytes()
    table = NativeTable(model.sizes._asdict(), tuple(places), tuple(model.ranges), zlib.crc32(step))
    content = json.loads(table.to_json())
    if change is not None:
        change(content)
    graphs = onnx_graphs() | {"step.onnx": step, NATIVE: json.dumps(content).encode()}
    write_zip(path, {"meta.json": json.dumps(record | {"precision": "int8"}).encode(), **graphs})
    return model


def test_an_archive_runs_on_the_native_step(installed_kernels: ModuleType, tmp_path: Path) -> None:
    fused = save_native(installed_kernels, tmp_path / "m.zip")
    model, direct = load_model(tmp_path / "m.zip"), installed_kernels.FusedModel(*fused)
    assert isinstance(model.backend, NativeBackend) and model.backend.family == installed_kernels.families()[0]
    samples = np.random.default_rng(0).uniform(-0.1, 0.1, (2, 2 * CHUNK * model.meta.frame_samples)).astype(np.float32)
    lengths = [samples.shape[1], samples.shape[1] - 1]
    scores, _ = model.step(samples, lengths, CHUNK, LEFT, model.init_state(2, CHUNK, LEFT))
    state, half = direct.init_state(2, CHUNK * LEFT), samples.shape[1] // 2
    for part in range(2):
        block = samples[:, part * half : (part + 1) * half]
        output, state = direct.step(block, np.array(lengths).clip(0, (part + 1) * half) - part * half, 8, state)
        assert np.array_equal(scores.encoder_out[:, part * CHUNK : (part + 1) * CHUNK], output.encoded)


def test_states_can_be_joined_and_split(installed_kernels: ModuleType, tmp_path: Path) -> None:
    save_native(installed_kernels, tmp_path / "m.zip")
    model = load_model(tmp_path / "m.zip")
    samples = np.random.default_rng(1).uniform(-0.1, 0.1, (3, CHUNK * model.meta.frame_samples)).astype(np.float32)
    ends = [samples.shape[1]]
    alone = [model.step(row[None], ends, CHUNK, LEFT, model.init_state(1, CHUNK, LEFT))[1] for row in samples]
    together = model.step(samples, ends * 3, CHUNK, LEFT, model.concat_states(alone))[0]
    for row, state in enumerate(model.split_state(model.concat_states(alone))):
        again = model.step(samples[row : row + 1], ends, CHUNK, LEFT, state)[0]
        assert np.array_equal(again.encoder_out, together.encoder_out[row : row + 1])
    with pytest.raises(ValueError, match="is not one of 1 streams of this model with 4 cached frames"):
        model.step(samples[:1], ends, CHUNK, 1, alone[0])


def test_the_decoder_runs_on_onnxruntime(
    installed_kernels: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_native(installed_kernels, tmp_path / "m.zip")
    save_archive(tmp_path / "usual.zip")
    model, usual = load_model(tmp_path / "m.zip", backend="native"), load_model(tmp_path / "usual.zip")
    frames, hypotheses = [np.ones((1, 3, 2), np.float32)], [(3, 4), (3,)]
    assert np.array_equal(model.rescore(frames, hypotheses), usual.rescore(frames, hypotheses))


def test_a_decoder_without_onnxruntime_is_noticed_at_the_start(
    installed_kernels: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_native(installed_kernels, tmp_path / "m.zip")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    with pytest.raises(ImportError, match=r"m.zip: its attention decoders run on onnxruntime, .*\[onnx\]'"):
        load_model(tmp_path / "m.zip", backend="native")


def test_frames_of_another_length_are_refused(installed_kernels: ModuleType, tmp_path: Path) -> None:
    save_native(installed_kernels, tmp_path / "m.zip", hop=96)
    with pytest.raises(ValueError, match="native.json has frames of 384 samples, meta.json of 320; export the model"):
        load_model(tmp_path / "m.zip", backend="native")


def test_a_wrong_family_is_not_blamed_on_the_file(
    installed_kernels: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_native(installed_kernels, tmp_path / "m.zip")
    monkeypatch.setenv("WENET_FUSION_ISA", "z80")
    with pytest.raises(ValueError, match=r"^family 'z80' \(WENET_FUSION_ISA\) does not run here"):
        load_model(tmp_path / "m.zip", backend="native")


@pytest.mark.parametrize(
    ("measured", "threads", "expected"), [(1, 1, NativeBackend), (0, 1, OnnxBackend), (1, 2, OnnxBackend)]
)
def test_auto_takes_the_backend_that_was_measured_to_be_faster(
    installed_kernels: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    measured: int,
    threads: int,
    expected: type,
) -> None:
    """A step on the native library uses one core, and some kinds of processors were not measured."""
    save_native(installed_kernels, tmp_path / "m.zip")
    monkeypatch.setattr(installed_kernels, "is_measured", lambda: bool(measured))
    monkeypatch.setattr(OnnxBackend, "__init__", lambda self, *arguments: None)
    assert isinstance(load_model(tmp_path / "m.zip", threads=threads).backend, expected)


def test_the_backend_follows_the_file_and_what_is_installed(
    kernels: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_native(kernels, tmp_path / "int8.zip")
    save_archive(tmp_path / "float32.zip")
    save_model(tmp_path / "final.zip")
    with zipfile.ZipFile(tmp_path / "int8.zip", "a") as archive:
        archive.writestr("step.onnx", onnx_graphs()["step.onnx"])  # replaces the tensors by a graph
    for installed in (False, True):
        monkeypatch.setitem(sys.modules, "wenet_fusion_kernels", kernels if installed else None)
        assert isinstance(load_model(tmp_path / "float32.zip").backend, OnnxBackend)
        assert isinstance(load_model(tmp_path / "final.zip").backend, TorchBackend)
        assert isinstance(load_model(tmp_path / "int8.zip", backend="onnxruntime").backend, OnnxBackend)
        if installed:
            with pytest.raises(
                ValueError,
                match="native.json was made for another step.onnx; export the model again with this version, or use",
            ):
                load_model(tmp_path / "int8.zip")
        else:
            assert isinstance(load_model(tmp_path / "int8.zip").backend, OnnxBackend)
            with pytest.raises(ImportError, match=r"pip install 'wenet-fusion-runtime\[native\]', or in a clone"):
                load_model(tmp_path / "int8.zip", backend="native")


@pytest.mark.parametrize(
    ("file", "backend", "message"),
    [
        ("float32.zip", "native", "needs an int8 ONNX archive of this version; export the model again with"),
        ("float32.zip", "torch", "runs on onnxruntime, not on torch; leave --backend out"),
        ("final.zip", "onnxruntime", "runs on torch, not on onnxruntime; leave --backend out"),
        ("final.zip", "native", "needs an int8 ONNX archive"),
        ("final.zip", "cuda", "backend 'cuda' is unknown; choose one of auto, native, onnxruntime, torch"),
    ],
)
def test_a_backend_that_cannot_run_the_file_is_refused(tmp_path: Path, file: str, backend: str, message: str) -> None:
    save_archive(tmp_path / "float32.zip")
    save_model(tmp_path / "final.zip")
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path / file, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_info_says_what_runs_the_file(
    kernels: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, backend: str
) -> None:
    save_native(kernels, tmp_path / "m.zip")
    for installed in (True, False):
        monkeypatch.setitem(sys.modules, "wenet_fusion_kernels", kernels if installed else None)
        status = main(["info", str(tmp_path / "m.zip"), "--backend", backend])
        printed = capsys.readouterr()
        if backend == "torch" or (backend == "native" and not installed):
            assert status == 1 and ("not on torch" in printed.err or "pip install" in printed.err)
        else:
            is_native = installed and backend != "onnxruntime"
            native = f"native step ({kernels.families()[0]})"
            expected = native if is_native else "onnxruntime, or the native step (--backend native)"
            assert status == 0 and f"runs on             {expected}\n" in printed.out


def test_info_refuses_a_backend_that_cannot_run_the_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    save_archive(tmp_path / "float32.zip")
    assert main(["info", str(tmp_path / "float32.zip"), "--backend", "native"]) == 1
    assert "cannot run on the native step" in capsys.readouterr().err


def _set(name: str, value: Any) -> Change:
    return lambda content: content.update({name: value})


def _size(name: str, value: Any) -> Change:
    return lambda content: content["sizes"].update({name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("format", 2), "has format 2, expected 1"),
        (_set("format", "\n"), r"has format '\\n', expected 1"),
        (_set("checksum", 7), "was made for another step.onnx"),
        (_set("tensors", None), "is damaged"),
        (_set("sizes", [1, 2]), "is damaged"),
        (lambda content: content.pop("ranges"), "is damaged"),
        (lambda content: content["tensors"][0].__setitem__(0, "object"), "has a tensor of type 'object'"),
        (lambda content: content["tensors"][0].__setitem__(2, -1), "has -1 where a whole number belongs"),
        (lambda content: content["tensors"][0].__setitem__(2, 10**9), "was made for another step.onnx"),
        (lambda content: content["tensors"][0].__setitem__(1, [10**9, 10**9]), "was made for another step.onnx"),
        (lambda content: content["tensors"].pop(), "tensors, expected"),
        (lambda content: content["ranges"][0].__setitem__(0, float("nan")), "the range of subsampled is scale nan"),
        (lambda content: content["ranges"].pop(), "ranges, expected"),
        (_size("dim", True), "has True where a whole number belongs"),
        (_size("dim", 0), "dim is 0"),
        (_size("speakers", 2), "unexpected keyword argument"),
        (lambda content: content["sizes"].pop("top"), "missing 1 required positional argument: 'top'"),
    ],
)
def test_a_damaged_table_is_refused(
    installed_kernels: ModuleType, tmp_path: Path, change: Change, message: str
) -> None:
    save_native(installed_kernels, tmp_path / "m.zip", change)
    remedy = "export the model again with this version, or use --backend onnxruntime"
    with pytest.raises(ValueError, match=f"m.zip: native.json .*{message}.*; {remedy}"):
        load_model(tmp_path / "m.zip")


def test_a_model_with_another_vocabulary_is_refused(installed_kernels: ModuleType, tmp_path: Path) -> None:
    save_native(installed_kernels, tmp_path / "m.zip", vocabulary=50)
    with pytest.raises(ValueError, match="they belong to different models"):
        load_model(tmp_path / "m.zip")


def test_random_damage_ends_in_a_message(installed_kernels: ModuleType, tmp_path: Path) -> None:
    """Whatever the table holds, loading it and a step end in a result or in one of our errors."""
    save_native(installed_kernels, tmp_path / "good.zip")
    with zipfile.ZipFile(tmp_path / "good.zip") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for seed in range(150):
        rng = np.random.default_rng(seed)
        content = json.loads(members[NATIVE])
        for _ in range(int(rng.integers(1, 4))):
            _damage(content, rng)
        text = json.dumps(content).encode()
        if seed % 3 == 0:
            cut = int(rng.integers(0, len(text)))
            text = text[:cut] + bytes(rng.integers(0, 256, 3).tolist()) + text[cut + 3 :]
        write_zip(tmp_path / "m.zip", members | {NATIVE: text})
        try:
            model = load_model(tmp_path / "m.zip")
            samples = np.zeros((1, CHUNK * model.meta.frame_samples), np.float32)
            model.step(samples, [samples.shape[1]], CHUNK, LEFT, model.init_state(1, CHUNK, LEFT))
        except (ValueError, ModelFault, MemoryError) as error:
            assert "export the model again" in str(error) or isinstance(error, MemoryError), (seed, error)


def _damage(content: Any, rng: np.random.Generator) -> None:
    """Change one value somewhere in a JSON document."""
    while True:
        keys = list(content) if isinstance(content, dict) else list(range(len(content)))
        if not keys:
            return
        key = keys[int(rng.integers(len(keys)))]
        if isinstance(content[key], (dict, list)) and rng.random() < 0.9:
            content = content[key]
            continue
        values = [0, -1, 1, 2**31, 10**12, 0.5, "x", None, [], True, float("inf"), int(rng.integers(1, 5000))]
        content[key] = values[int(rng.integers(len(values)))]
        return
