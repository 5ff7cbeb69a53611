"""The benchmarks compare the right variants, and their tables hold the measurements."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch

from wenet_fusion.export.targets.onnx_graph import session
from wenet_fusion.export.targets.torchscript import reloaded
from wenet_fusion.model.chunking import Chunking
from wenet_fusion.model.operators import NORM_OPERATORS, matching, operators
from wenet_fusion.trained_model import fused_model

pytest.importorskip("onnxruntime", reason="the benchmarks need onnxruntime, an optional extra")
pytest.importorskip("matplotlib", reason="pictures need matplotlib, an optional extra")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "fbgemm" not in torch.backends.quantized.supported_engines, reason="torch has no FBGEMM on this machine"
    ),
]
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import encoder_speed as encoder_benchmark  # noqa: E402
import gpu as gpu_benchmark  # noqa: E402
import profile_step  # noqa: E402
import runtime_speed as runtime_benchmark  # noqa: E402
from encoder_speed import QUICK  # noqa: E402
from parts import candidates, runtime_calls  # noqa: E402
from parts.benchmark_report import Goal  # noqa: E402
from parts.candidates import CHANGES, CONFORMER, INT8, OURS, Builder, change_name, changes  # noqa: E402
from parts.encoder_variants import features_of, write_graph  # noqa: E402
from parts.random_models import EncoderStep, Shape, conformer, fresh_state, random_model, sharpen  # noqa: E402
from parts.timing import Timing, by_turns  # noqa: E402

SHAPE = Shape(Chunking(4, 2), 2)


def builder(folder: Path = Path()) -> Builder:
    return Builder(QUICK, 0, folder)


def one_step(step: torch.nn.Module, encoder: torch.nn.Module) -> torch.Tensor:
    features, lengths = features_of(SHAPE)
    with torch.no_grad():
        return step(features, lengths, *SHAPE.chunking, fresh_state(encoder, SHAPE))[0]


def test_calls_get_equal_turns_in_changing_order() -> None:
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    found = by_turns(calls, rounds=3, timed=2, tick=lambda: None)
    assert "".join(order) == "aaabbbccc" + "bbbcccaaa" + "cccaaabbb"
    assert all(timing.samples + timing.disturbed == 6 for timing in found.values())


class Clock:
    """The clocks that `timing` reads: wall time, and the time in which this thread ran."""

    def __init__(self) -> None:
        self.wall = self.used = 0.0

    def perf_counter(self) -> float:
        return self.wall

    def thread_time(self) -> float:
        return self.used

    def pass_by(self, used: float, waited: float) -> None:
        self.wall += used + waited
        self.used += used


def test_a_call_that_waits_counts_only_if_all_calls_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("parts.timing.time", clock)
    waits = iter([0.0] * 9 + [0.03] * 3)
    found = by_turns({"call": lambda: clock.pass_by(0.002, next(waits))}, rounds=4, timed=2, tick=lambda: None)["call"]
    assert (found.samples, found.disturbed) == (6, 2) and found.median == pytest.approx(2)
    always = by_turns({"sleep": lambda: clock.pass_by(0.0, 0.01)}, rounds=2, timed=2, tick=lambda: None)["sleep"]
    assert (always.samples, always.disturbed) == (4, 0) and always.median == pytest.approx(10)


def test_on_a_shared_core_only_the_own_time_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("parts.timing.time", clock)
    calls = {"call": lambda: clock.pass_by(0.002, 0.03)}
    found = by_turns(calls, rounds=2, timed=3, tick=lambda: None, shared=True)["call"]
    assert (found.samples, found.disturbed) == (6, 0) and found.median == pytest.approx(2)


def test_separate_products_equal_the_joint_product() -> None:
    config = conformer(QUICK.encoder)
    joint, separate = builder().plain(config), builder().plain(config, separate=True)
    one, other = (one_step(EncoderStep(encoder), encoder) for encoder in (joint, separate))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        separate.layers[0].attention.op.qkv.key.weight.mul_(1.1)
    assert not torch.allclose(one_step(EncoderStep(separate), separate), one, rtol=1e-3, atol=1e-3)


def test_the_graph_equals_the_encoder(tmp_path: Path) -> None:
    """If the graph differed, the time of onnxruntime would be that of another model."""
    for config in (QUICK.encoder, conformer(QUICK.encoder)):
        encoder, path = builder().plain(config), tmp_path / "encoder.onnx"
        write_graph(encoder, path)
        features, lengths = features_of(SHAPE)
        state = fresh_state(encoder, SHAPE)
        values = {"features": features, "lengths": lengths, **{f"state_{i}": tensor for i, tensor in enumerate(state)}}
        out = session(path).run(None, {name: tensor.numpy() for name, tensor in values.items()})
        np.testing.assert_allclose(out[0], one_step(EncoderStep(encoder), encoder), atol=1e-4)
        norms = sum(node.op_type == "LayerNormalization" for node in onnx.load(str(path)).graph.node)
        assert norms == (0 if config == QUICK.encoder else 6 * config.layers)


def test_the_changes_lead_from_the_conformer_to_the_fusionformer() -> None:
    found = changes(QUICK.encoder)
    assert found[0].config == conformer(QUICK.encoder) and found[-1].config == QUICK.encoder
    assert [change.separate for change in found] == [True] * 4 + [False] * 2
    left = []
    for change in found:
        script = torch.jit.script(EncoderStep(builder().plain(change.config, change.separate)).eval())
        counts = operators(reloaded(script).inlined_graph)
        left.append((sum(matching(counts, NORM_OPERATORS).values()), sum(matching(counts, ("silu", "glu")).values())))
    assert left[0] == (6 * 2, 4 * 2) and left[1] == (0, 4 * 2) and left[2:] == [(0, 0)] * 4


def test_the_fused_encoder_has_all_its_linear_layers() -> None:
    plain = fused_model(builder().model(QUICK.encoder)).encoder
    layers = [module for module in plain.modules() if isinstance(module, torch.nn.Linear)]
    assert len(layers) == 8 * QUICK.encoder.layers + 1


def test_a_sharpened_head_is_certain_and_mostly_blank() -> None:
    trained = random_model(QUICK.encoder, QUICK.chunkings, 50, seed=0)
    noise = 0.1 * torch.randn(4 * 16000, generator=torch.Generator().manual_seed(0))
    model = trained.model
    with torch.no_grad():
        before = model.ctc(model.encode(noise[None], torch.tensor([len(noise)]), Chunking(4, 2)).frames_BTD)
        sharpen(trained, noise, blank_share=0.7, sharpness=20.0)
        after = model.ctc(model.encode(noise[None], torch.tensor([len(noise)]), Chunking(4, 2)).frames_BTD)
    assert before.exp().max(-1).values.mean() < 0.9 < after.exp().max(-1).values.mean()
    assert 0.5 < (after.argmax(-1) == 0).float().mean() < 0.9 and len(after.argmax(-1).unique()) > 3


def test_a_goal_is_met_or_missed() -> None:
    assert Goal("", 1.9, 1.95).met and not Goal("", 1.9, 1.85).met
    assert Goal("", 1.6, 1.5, at_most=True).met and "**missed**" in Goal("", 1.6, 1.7, at_most=True).row()
    assert Goal("", 1.25, 1.2503, at_most=True).row()[2:] == ["1.2503", "**missed**"]
    assert Goal("", 1.25, 1.2474, at_most=True).row()[2:] == ["1.247", "met"]


def test_streams_of_the_runtime_benchmark_are_whole_chunks() -> None:
    model = SimpleNamespace(meta=SimpleNamespace(right_padding_samples=2560, frame_samples=640))
    samples = np.zeros(32000, np.float32)
    for chunking, chunks in ((Chunking(16, 4), 3), (Chunking(4, 16), 13)):
        found = runtime_calls.whole_chunks(model, chunking, samples)
        assert len(found) + 2560 == chunks * chunking.size * 640
        assert runtime_calls.steps_of(model, chunking, found) == chunks


def test_the_encoder_benchmark_reports_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert encoder_benchmark.main(["--quick", "--batches", "1", "4", "--timed", "1", "--output", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "encoder.json").read_text(encoding="utf-8"))
    text = (tmp_path / "encoder.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == text and (tmp_path / "encoder_speed.png").stat().st_size > 10_000
    times = record["times"]["2/4 x 1"]
    assert len(times) == 7 + 7 + 4 + 12 and set(record["times"]) == {"4/2 x 1", "2/4 x 1", "4/2 x 4", "2/4 x 4"}
    forms = [name for name in times if name.startswith(CONFORMER) and "int8" in name]
    theirs = min(times[name]["median"] for name in forms)
    ours = min(times[name]["median"] for name in times if name.startswith(OURS) and "int8" in name)
    goal, stretch = [goal for goal in record["goals"] if goal["what"].startswith("2/4, int8")]
    assert goal["found"] == stretch["found"] == pytest.approx(theirs / ours)
    assert (goal["wanted"], stretch["wanted"]) == (1.9, 2.2) and stretch["what"].endswith("(stretch goal)")
    assert (
        f"| LayerNorm Conformer | {times[f'{CHANGES}: {change_name(0, candidates.FLOAT32)}']['median']:.2f} |" in text
    )
    assert times[f"{candidates.LINEAR}: {INT8}"]["median"] > 0 and times[f"{OURS}: {INT8}"]["median"] > 0


def test_the_gpu_benchmark_reports_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--device", "cpu", "--quick", "--batches", "1", "3", "--timed", "1", "--output", str(tmp_path)]
    assert gpu_benchmark.main(arguments) == 0
    text = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    record = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert capsys.readouterr().out == text and "On cpu, which is no GPU" in text
    assert list(record["times"]) == ["4/2 x 1", "4/2 x 3", "2/4 x 1", "2/4 x 3"]
    for label, times in record["times"].items():
        models = (CONFORMER, gpu_benchmark.PLAIN, OURS)
        assert list(times) == [f"{model}, {name}" for model in models for name in gpu_benchmark.DTYPES]
        assert all(timing["disturbed"] == 0 for timing in times.values()), label
    name = f"{OURS}, bfloat16"
    cells = [record["times"][f"4/2 x {batch}"][name]["median"] for batch in (1, 3)]
    assert f"| {name} | {cells[0]:.2f} | {cells[1]:.2f} |" in text


def test_real_time_needs_steps_that_are_shorter_than_a_chunk() -> None:
    chunking = Chunking(4, 2)  # lasts 160 ms
    medians = {1: 2.0, 8: 10.0, 64: 161.0}
    times = {Shape(chunking, batch): {"ours": Timing(value, value, value, 1, 0)} for batch, value in medians.items()}
    assert gpu_benchmark.real_time(times, chunking, "ours") == (128, 8)  # 64 streams would be late
    assert gpu_benchmark.real_time({Shape(chunking, 1): {"ours": Timing(161.0, 0, 0, 1, 0)}}, chunking, "ours") == (
        0,
        0,
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_gpu_benchmark_says_that_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--device cuda cannot be used here .*; this benchmark needs a GPU"):
        gpu_benchmark.main(["--output", str(tmp_path / "out")])
    assert list(tmp_path.iterdir()) == []


def test_a_step_of_the_gpu_benchmark_stays_on_its_device() -> None:
    """The device "meta" computes nothing and refuses tensors of other devices, so a tensor left on the CPU is found
    without a GPU.
    """
    variants = gpu_benchmark.build(QUICK, 0, torch.device("meta"))
    assert len(variants) == 9
    for variant in variants:
        variant.prepare(SHAPE)()


def test_the_runtime_benchmark_reports_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Path] = []
    real = runtime_calls.first_text

    def once(path: Path, samples: np.ndarray, times: int) -> runtime_calls.FirstText:
        """Start a process for one file only, because a process with torch takes seconds to start."""
        started.append(path)
        return real(path, samples, 1) if path.name == "encoder.archive" else runtime_calls.FirstText(1.0, 1)

    monkeypatch.setattr(runtime_benchmark, "first_text", once)
    assert runtime_benchmark.main(["--quick", "--timed", "1", "--output", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "runtime.json").read_text(encoding="utf-8"))
    assert len(started) == 6 and 0 < record["first_text_seconds"]["onnxruntime float32"] < 60
    times = record["times"]["8/2"]
    assert len(times) == 6 * 4 and len(record["times"]["rescoring"]) == 6 * 2
    goal = record["goals"][0]
    whole, alone = (times[f"TorchScript float32: {part}"]["median"] for part in ("ctc_greedy_search", "encoder alone"))
    assert goal["found"] == pytest.approx(whole / alone)


def test_the_profile_counts_each_operator_of_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile_step, "read_bandwidth", lambda: 10.0)
    assert profile_step.main(["--quick", "--steps", "3", "--output", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "profile.json").read_text(encoding="utf-8"))
    text = (tmp_path / "profile.md").read_text(encoding="utf-8")
    profiles = {(found["variant"], found["shape"]): found for found in record["profiles"]}
    assert len(profiles) == 8 and all(min(found["operators"].values()) >= 0 for found in profiles.values())
    for variant, product in (
        (f"{CONFORMER}, {candidates.ONNX_INT8_DYNAMIC}", "DynamicQuantizeMatMul"),
        (f"{OURS}, {candidates.ONNX_INT8}", "MatMulIntegerToFloat"),
    ):
        found = profiles[variant, "2/4 x 1"]
        spent = found["operators"][product]
        assert spent > 0 and f"{product} {spent:.2f} (" in text
        products = sum(ms for name, ms in found["operators"].items() if name in (product, "MatMulIntegerToFloat"))
        assert f"| {variant} | {found['weights_megabytes']:.1f} | {products:.2f} |" in text
    spent = profiles[f"{OURS}, {INT8}", "2/4 x 1"]["operators"]
    assert any(name.startswith("quantized::linear") for name in spent)


def test_steps_that_fill_the_context_are_not_profiled() -> None:
    events = [{"name": "session_initialization", "ts": 0, "dur": 5}]
    for run, spent in enumerate([100, 100, 7, 9]):
        events.append({"name": "model_run", "ts": 1000 * (run + 1), "dur": spent + 1})
        events.append(
            {"name": "a_kernel_time", "ts": 1000 * (run + 1) + 1, "dur": spent, "args": {"op_name": "MatMul"}}
        )
    assert profile_step.kernel_times(events, 2) == {"MatMul": 16}


@pytest.mark.parametrize(
    ("program", "message"),
    [("import sys; sys.exit(3)", "m.zip: .* ended with 3; see"), ("", "m.zip gave no text of 16 s")],
)
def test_a_failed_process_and_no_text_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, message: str
) -> None:
    monkeypatch.setattr(runtime_calls, "_FIRST_TEXT", program)
    with pytest.raises(ValueError, match=message):
        runtime_calls.first_text(tmp_path / "m.zip", np.zeros(16, np.float32), 1)


def test_impossible_options_are_refused(tmp_path: Path) -> None:
    asked = (
        (encoder_benchmark, "--rounds"),
        (gpu_benchmark, "--batches"),
        (runtime_benchmark, "--rounds"),
        (profile_step, "--steps"),
    )
    for benchmark, option in asked:
        with pytest.raises(ValueError, match="must be 1 or more"):
            benchmark.main([option, "0", "--output", str(tmp_path)])
