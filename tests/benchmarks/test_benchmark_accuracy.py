"""The benchmark of error rates measures every variant of each checkpoint, including the Conformer's."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.model.tones import ToneRun

from wenet_fusion.export import speech

pytest.importorskip("onnxruntime", reason="the benchmark needs onnxruntime, an optional extra")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("float32"),
    pytest.mark.skipif(
        "fbgemm" not in torch.backends.quantized.supported_engines, reason="torch has no FBGEMM on this machine"
    ),
]
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import accuracy  # noqa: E402

CONFORMER = ("norm=layer", "activation=swish", "conv_gate=glu", "positions=rel_pos")


def test_every_variant_of_both_models_is_measured(
    tone_run: ToneRun,
    train: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(speech, "WORST_JUDGE", 10.0)  # the Conformer has learned nothing in two steps
    assert train(*(f"model.encoder.{change}" for change in CONFORMER)) == 0
    (conformer,) = (tmp_path / "exp").glob("step_*.pt")
    capsys.readouterr()
    few = tmp_path / "few.list"
    lines = [json.loads(line) for line in tone_run.train_list.read_text(encoding="utf-8").splitlines()[:8]]
    few.write_text("".join(
        json.dumps(line | {"wav": str(tone_run.train_list.parent / line["wav"])}) + "\n" for line in lines
    ), encoding="utf-8")  # fmt: skip
    lists = ["--data", str(tone_run.dev_list), "--calibration", str(few), "--num_utterances", "4"]
    output = tmp_path / "out"
    assert accuracy.main([f"ours={tone_run.checkpoint}", f"theirs={conformer}", *lists, "--output", str(output)]) == 0
    outcomes = [accuracy.Outcome(**found) for found in json.loads((output / "accuracy.json").read_text())["outcomes"]]
    variants = {model: {found.variant for found in outcomes if found.model == model} for model in ("ours", "theirs")}
    assert len(variants["ours"]) == 7 and variants["ours"] - variants["theirs"] == {"onnxruntime int8"}
    exact = [found for found in outcomes if found.variant.endswith("float32") and found.model == "ours"]
    assert len(exact) == 4 and all(found.changed == 0 and found.wer < 0.2 for found in exact)
    text = (output / "accuracy.md").read_text(encoding="utf-8")
    assert all(f"| {found.model}, {found.variant} |" in text for found in outcomes) and text in capsys.readouterr().out
