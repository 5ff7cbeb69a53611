"""The exported file is verified, describes itself, has no norms, and gives exactly the tokens of offline evaluation."""

import dataclasses
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import changed, tiny_recipe, tiny_trained
from hypothesis import given, settings
from hypothesis import strategies as st
from support.model import laws
from support.model.streams import FRAME, audio, samples, states_after, step_op
from torch import Tensor
from wenet_fusion_runtime.model.acoustic_model import AcousticModel
from wenet_fusion_runtime.model.model_file import load_model, read_meta
from wenet_fusion_runtime.results.result import Result, joined_ids
from wenet_fusion_runtime.search.modes import GREEDY, MODES
from wenet_fusion_runtime.stream import offline
from wenet_fusion_runtime.stream.decoding_options import DecodingOptions
from wenet_fusion_runtime.stream.offline import transcribe_offline
from wenet_fusion_runtime.stream.recognizer import Recognizer

from wenet_fusion.export.flow import export_model
from wenet_fusion.export.speech import Speech
from wenet_fusion.export.targets import torchscript
from wenet_fusion.export.targets.torchscript import script
from wenet_fusion.export.verification import relative_difference
from wenet_fusion.model.chunking import Chunking
from wenet_fusion.model.layers.convolution import CausalConvolution
from wenet_fusion.model.layers.layer_protocol import StepContext
from wenet_fusion.model.layers.packing import unpack
from wenet_fusion.trained_model import TrainedModel, acoustic_model, fused_model

# --- same tokens


def stream(recognizer: Recognizer, sound: np.ndarray, cuts: list[int], chunking: Chunking) -> list[int]:
    running = recognizer.create_stream(*chunking)
    for block in np.split(sound, sorted(cuts)):
        running.accept_waveform(block)
    running.finish()
    return joined_ids(running.finals)


@pytest.mark.parametrize("mode", MODES)
@settings(laws.random_geometries, max_examples=4)
@given(
    chunking=st.sampled_from([Chunking(4, 4), Chunking(8, 2)]),
    length=st.integers(0, 26000),
    cuts=st.lists(st.integers(0, 26000), max_size=8),
)
def test_a_stream_in_any_cuts_equals_offline_evaluation(
    exported: Path, trained: TrainedModel, mode: str, chunking: Chunking, length: int, cuts: list[int]
) -> None:
    options, sound = DecodingOptions(mode=mode), audio()[:length]
    offline: list[Result] = transcribe_offline(acoustic_model(trained), sound, *chunking, options)
    found = stream(Recognizer(exported, options), sound, cuts, chunking)
    assert found == joined_ids(offline)


@pytest.mark.parametrize("chunking", [Chunking(4, 4), Chunking(8, 2)], ids=str)
def test_offline_evaluation_in_blocks_equals_one_step(
    trained: TrainedModel, monkeypatch: pytest.MonkeyPatch, chunking: Chunking
) -> None:
    utterances = [audio(), audio(0.4), audio()[5000:15001], audio(0.0)]
    model = acoustic_model(trained)
    whole = offline.offline_step(model, utterances, *chunking)
    monkeypatch.setattr(offline, "OFFLINE_BLOCK_FRAMES", 24)
    blocks = offline.offline_step(model, utterances, *chunking)
    for row in range(len(utterances)):
        (found, found_out), (expected, expected_out) = blocks.row(row), whole.row(row)
        assert relative_difference(found_out, expected_out) < 1e-5
        assert relative_difference(found.blank, expected.blank) < 1e-5
        assert (found.ids[:, 0] == expected.ids[:, 0]).all()


def test_the_tiny_model_speaks(exported: Path) -> None:
    """Otherwise equal tokens would prove nothing."""
    recognizer = Recognizer(exported, DecodingOptions(mode=GREEDY))
    ids = stream(recognizer, audio(), [], Chunking(8, 2))
    assert len(ids) > 10 and len(set(ids)) > 5
    for seconds in (0.5, 1.0):
        assert stream(recognizer, audio()[: int(8000 * seconds)], [], Chunking(8, 2)) != ids


def test_equal_tokens_detect_a_stream_that_forgets(exported: Path, trained: TrainedModel) -> None:
    class Forgetful(AcousticModel):
        def step(self, samples: np.ndarray, lengths: list[int], chunk: int, left: int, state: Any) -> tuple[Any, Any]:
            scores, new = super().step(samples, lengths, chunk, left, state)
            return scores, new._replace(tensors=[torch.zeros_like(new.tensors[0]), *new.tensors[1:]])

    model = load_model(exported)
    broken = Recognizer(Forgetful(model.backend, model.meta), DecodingOptions(mode=GREEDY))
    offline = transcribe_offline(acoustic_model(trained), audio(), 4, 4, DecodingOptions(mode=GREEDY))
    assert stream(broken, audio(), [], Chunking(4, 4)) != joined_ids(offline)


def test_no_decoder(tiny_units: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny_units)
    decoder = dataclasses.replace(recipe.model.decoder, layers=0, reverse_layers=0)
    loss = dataclasses.replace(recipe.model.loss, ctc_weight=1.0, reverse_weight=0.0)
    trained = tiny_trained(
        dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, decoder=decoder, loss=loss))
    )
    export_model(trained, tmp_path / "ctc.pt", speech=[Speech("a", audio(1.0), "")])
    assert not read_meta(tmp_path / "ctc.pt").decoder
    assert stream(Recognizer(tmp_path / "ctc.pt"), audio(), [777], Chunking(8, 2))


# --- laws of the file, in float64


@pytest.fixture(scope="module")
def file_in_float64(trained: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> torch.jit.ScriptModule:
    path = tmp_path_factory.mktemp("float64") / "model.pt"
    torch.jit.save(script(changed(trained, lambda model: model.double())), str(path))
    return torch.jit.load(str(path))


@settings(laws.random_geometries, max_examples=5)
@given(
    st.builds(Chunking, st.integers(1, 5), st.integers(0, 3)),
    st.lists(st.integers(1, 3), min_size=2, max_size=3),
    st.lists(st.integers(0, 3), min_size=2, max_size=3),
)
def test_split_and_batch(
    file_in_float64: torch.jit.ScriptModule, chunking: Chunking, blocks: list[int], past: list[int]
) -> None:
    model, block = file_in_float64, chunking.size * FRAME
    cuts = [block * sum(blocks[: i + 1]) for i in range(len(blocks))]
    states = states_after(model, chunking, past)
    x = samples(0, len(past), cuts[-1])
    op, lengths = step_op(model, chunking), torch.tensor([cuts[-1] - 100 * row for row in range(len(past))])
    assert laws.split(op, model.concat_states(states), x, lengths, cuts[:-1]) <= laws.BOUND
    xs = [x[row : row + 1, : lengths[row]] for row in range(len(past))]
    assert laws.batch(op, model.concat_states, xs, states) <= laws.BOUND
    assert laws.difference(model.split_state(model.concat_states(states)), states) == 0


def test_the_file_equals_the_model_in_memory(file_in_float64: torch.jit.ScriptModule, trained: TrainedModel) -> None:
    memory = fused_model(changed(trained, lambda model: model.double()))
    x, lengths = samples(0, 2, 4160), torch.tensor([4160, 2567])
    outs = [
        step_op(model, Chunking(4, 2))(x, lengths, model.init_state(2, 4, 2))[0] for model in (file_in_float64, memory)
    ]
    assert laws.difference(laws.valid(outs[0], lengths, 4160), laws.valid(outs[1], lengths, 4160)) <= laws.BOUND


# --- precomputed biases, devices


def test_the_file_holds_the_position_biases_of_every_served_chunk_size(exported: Path, trained: TrainedModel) -> None:
    served = trained.config.training.chunking.served()
    found = [bias.bias_LHTS.shape[2:] for bias in torch.jit.load(exported).encoder.position_bias.ready.children()]
    assert len(found) > 1 and found == [(size, size * (left + 1)) for size, left in served]


def test_a_float32_file_runs_where_it_is_put(exported: Path) -> None:
    """The device "meta" refuses tensors of other devices, so a tensor left on the CPU is found without a GPU."""
    model, batch, chunk, left = torch.jit.load(exported, map_location="meta"), 3, 4, 4
    sound, lengths = torch.empty(batch, chunk * FRAME, device="meta"), torch.full([batch], chunk * FRAME, device="meta")
    hyps = torch.ones(2, 5, dtype=torch.int64, device="meta")
    with torch.inference_mode(), torch.jit.optimized_execution(False):
        scores, state = model.step(sound, lengths, chunk, left, model.init_state(batch, chunk, left))
        rescored = model.rescore(scores[0][:1], hyps, torch.full([2], 5, device="meta"))
        rows = model.split_state(model.concat_states([state, state]))
    assert {x.device.type for x in (*scores, *state, rescored, *rows[0])} == {"meta"} and len(rows) == 2 * batch


# --- no norm, no costly activation


# --- files that are not kept


SABOTAGE = {
    "a weight": lambda model: model.encoder.layers[0].attention.op.qkv.linear.weight.add_(0.01),
    "a norm": lambda model: model.encoder.layers[1].convolution.op.depthwise.norm.running_mean.add_(0.01),
    "the decoder": lambda model: model.decoder.out.weight.add_(laws.noise(0, 13, 16).float()),
    "not a number": lambda model: model.encoder.position_bias.table.fill_(float("nan")),
}


@pytest.mark.parametrize("what", list(SABOTAGE))
def test_a_file_that_differs_is_not_kept(
    what: str, trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.pt"
    monkeypatch.setattr(torchscript, "script", lambda honest, *rest: script(changed(honest, SABOTAGE[what]), *rest))
    with pytest.raises(
        ValueError, match=f"{path} is not kept: (it differs from the checkpoint by|the model's output is not a number)"
    ):
        export_model(trained, path)
    assert list(tmp_path.iterdir()) == []


def test_the_file_of_the_second_save_is_verified(
    trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first file, which is measured, is correct; the second one, which would be kept, is wrong."""
    save, path = torchscript.save, tmp_path / "model.pt"
    broken = script(changed(trained, SABOTAGE["a weight"]))

    def other_weights(scripted: torch.jit.ScriptModule, record: dict[str, Any], part: Path) -> None:
        save(broken if record["verification"] else scripted, record, part)

    def other_meta(scripted: torch.jit.ScriptModule, record: dict[str, Any], part: Path) -> None:
        save(scripted, record | ({"tail_samples": 7} if record["verification"] else {}), part)

    for second, message in ((other_weights, "differs from the checkpoint"), (other_meta, "its meta.json is not what")):
        monkeypatch.setattr(torchscript, "save", second)
        with pytest.raises(ValueError, match=f"{path} is not kept: .*{message}"):
            export_model(trained, path)
        assert list(tmp_path.iterdir()) == []


class ForgetfulConvolution(CausalConvolution):
    """Correct in one step and wrong in two, so only streaming reveals it."""

    def forward(
        self,
        x_ND: Tensor,
        state: typing.List[Tensor],  # noqa: UP006
        context: StepContext,
    ) -> typing.Tuple[Tensor, typing.List[Tensor]]:  # noqa: UP006
        h_BTD = unpack(self.gate(self.pointwise_in(x_ND)), context.valid_N, state[0].size(0), context.frames)
        h_BTD = torch.cat([state[0], h_BTD], dim=1)
        h_ND = self.activation(self.depthwise(h_BTD.transpose(1, 2), context.valid_N))
        return self.pointwise_out(h_ND), [torch.zeros_like(state[0])]


def test_a_file_that_streams_wrongly_is_not_kept(trained: TrainedModel, tmp_path: Path) -> None:
    forgetful = changed(
        trained, lambda model: setattr(model.encoder.layers[0].convolution.op, "__class__", ForgetfulConvolution)
    )
    with pytest.raises(ValueError, match="is not kept: it differs"):
        export_model(forgetful, tmp_path / "model.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_the_old_file(
    exported: Path, trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(exported.read_bytes())
    monkeypatch.setattr(
        torchscript, "script", lambda honest, *rest: script(changed(honest, SABOTAGE["a weight"]), *rest)
    )
    with pytest.raises(ValueError, match="is not kept"):
        export_model(trained, path)
    assert [found.name for found in tmp_path.iterdir()] == ["model.pt"]
    assert path.read_bytes() == exported.read_bytes()
