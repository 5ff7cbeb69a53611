"""The streaming model, from waveform to scores: every law of a stream, fused and unfused, and rescoring."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.model import laws
from support.model.streams import FRAME, samples, states_after, step_op
from torch import Tensor, nn

from wenet_fusion.model.asr_model import SOS_EOS, AsrModel
from wenet_fusion.model.chunking import FULL_CONTEXT, Chunking
from wenet_fusion.model.decoder import DecoderConfig
from wenet_fusion.model.layers.norm import fuse_norms, norms
from wenet_fusion.model.streaming import StepOutput, StreamingModel
from wenet_fusion.trained_model import TrainedModel, fused_model, latency

pytestmark = pytest.mark.usefixtures("float64")

chunkings = st.builds(Chunking, st.integers(1, 5), st.integers(0, 3))


@pytest.fixture(scope="module")
def plain(trained: TrainedModel) -> StreamingModel:
    return StreamingModel(copy.deepcopy(trained.model).double()).eval()


@pytest.fixture(scope="module")
def fused(trained: TrainedModel) -> StreamingModel:
    return StreamingModel(fuse_norms(copy.deepcopy(trained.model).double().eval())).eval()


@pytest.fixture(scope="module", params=["plain", "fused"])
def model(request: pytest.FixtureRequest) -> StreamingModel:
    return request.getfixturevalue(request.param)


# --- laws


@settings(laws.random_geometries, max_examples=10)
@given(
    chunkings,
    st.lists(st.integers(1, 3), min_size=1, max_size=4),
    st.integers(1, 999),
    st.lists(st.integers(0, 3), min_size=1, max_size=3),
)
def test_split(model: StreamingModel, chunking: Chunking, blocks: list[int], missing: int, past: list[int]) -> None:
    """Rows are out of step; the first is full, each of the others ends within a frame."""
    block = chunking.size * FRAME
    cuts = [block * sum(blocks[: i + 1]) for i in range(len(blocks))]
    lengths = torch.tensor([max(1, cuts[-1] - row * missing) for row in range(len(past))])
    state = laws.join(states_after(model, chunking, past))
    x = samples(0, len(past), cuts[-1])
    assert laws.split(step_op(model, chunking), state, x, lengths, cuts[:-1]) <= laws.BOUND


SEEDED_BUGS = {
    "front-end forgets": lambda old, new: [torch.zeros_like(new[0]), *new[1:]],
    "front-end one hop late": lambda old, new: [new[0].roll(80, dims=1), *new[1:]],
    "position not advanced": lambda old, new: [new[0], old[1], *new[2:]],
    "subsampling forgets": lambda old, new: [*new[:2], *old[2:4], *new[4:]],
    "layers forget": lambda old, new: [*new[:4], *old[4:]],
}


@pytest.mark.parametrize("bug", list(SEEDED_BUGS))
def test_split_detects(plain: StreamingModel, bug: str) -> None:
    chunking, x = Chunking(3, 2), samples(0, 1, 12 * FRAME)
    op, cuts, lengths = step_op(plain, chunking), [3 * FRAME, 6 * FRAME, 9 * FRAME], torch.tensor([12 * FRAME])
    broken = laws.forgetful(op, SEEDED_BUGS[bug])
    assert laws.split(broken, plain.init_state(1, *chunking), x, lengths, cuts) > laws.BROKEN


@settings(laws.random_geometries, max_examples=10)
@given(chunkings, st.lists(st.tuples(st.integers(0, 4), st.integers(1, 3000)), min_size=2, max_size=4))
def test_batch(model: StreamingModel, chunking: Chunking, chunks_and_samples: list[tuple[int, int]]) -> None:
    states = states_after(model, chunking, [chunks for chunks, _ in chunks_and_samples])
    xs = [samples(row, 1, count) for row, (_, count) in enumerate(chunks_and_samples)]
    assert laws.batch(step_op(model, chunking), laws.join, xs, states) <= laws.BOUND


def test_batch_detects_states_that_are_mixed_up(plain: StreamingModel) -> None:
    chunking, xs = Chunking(3, 2), [samples(0, 1, 960), samples(1, 1, 960)]
    states = states_after(plain, chunking, [1, 4])

    def mixed(found: list[laws.Tree]) -> laws.Tree:
        return [laws.join(found[::-1])[0], *laws.join(found)[1:]]

    assert laws.batch(step_op(plain, chunking), mixed, xs, states) > laws.BROKEN


@settings(laws.random_geometries, max_examples=10)
@given(chunkings, st.lists(st.integers(0, 3000), min_size=1, max_size=4))
def test_padding(model: StreamingModel, chunking: Chunking, lengths: list[int]) -> None:
    lengths_B, op = torch.tensor(lengths), step_op(model, chunking)
    x = samples(0, len(lengths), max(lengths) - max(lengths) % -FRAME + FRAME)

    def measure(padded: Tensor) -> laws.Tree:
        out, _ = op(padded, lengths_B, model.init_state(len(lengths), 1, 0))
        return laws.valid(out, lengths_B, padded.size(1))

    assert laws.padding(measure, x, lengths_B, more=FRAME) <= laws.BOUND


def test_padding_detects_samples_that_are_not_masked(plain: StreamingModel) -> None:
    lengths_B, op = torch.tensor([1900, 700]), step_op(plain, Chunking(3, 2))

    def measure(padded: Tensor) -> laws.Tree:
        out, _ = op(padded, (lengths_B + FRAME - 1) // FRAME * FRAME, plain.init_state(2, 1, 0))
        return laws.valid(out, lengths_B, padded.size(1))

    assert laws.padding(measure, samples(0, 2, 1920), lengths_B, garbage=[7.0], more=FRAME) > laws.BROKEN


@settings(laws.random_geometries, max_examples=10)
@given(chunkings, st.integers(1, 4000), st.integers(0, 99))
def test_fusion(trained: TrainedModel, chunking: Chunking, count: int, seed: int) -> None:
    x, lengths = samples(seed, 1, count), torch.tensor([count])

    def run(model: StreamingModel) -> laws.Tree:
        hypotheses = torch.tensor([[3, 4], [5, 0]]), torch.tensor([2, 1])
        out = step_op(model, chunking)(x, lengths, model.init_state(1, 1, 0))[0]
        return [out, model.rescore(out[0], *hypotheses)]

    assert norms(trained.model)
    assert laws.fusion(StreamingModel(copy.deepcopy(trained.model).double()), run) <= laws.BOUND


def test_fused_model_leaves_the_trained_model_alone(trained: TrainedModel) -> None:
    before, fused = copy.deepcopy(trained.model.state_dict()), fused_model(trained)
    assert norms(trained.model) and not norms(fused) and not fused.training
    assert all(torch.equal(before[name], tensor) for name, tensor in trained.model.state_dict().items())


def test_streaming_equals_the_path_of_training(trained: TrainedModel, plain: StreamingModel) -> None:
    model, lengths, chunking = copy.deepcopy(trained.model).double(), torch.tensor([4000, 2567]), Chunking(4, 4)
    x = samples(0, 2, 4160)
    encoded = model.encode(x, lengths, chunking)
    out = StepOutput(*plain.step(x, lengths, *chunking, plain.init_state(2, 1, 0))[0])
    assert torch.equal(out.lengths, encoded.lengths_B) and torch.equal(out.lengths, model.frames(lengths))
    valid = laws.valid(encoded.frames_BTD, lengths, 4160)
    assert laws.difference(laws.valid(out.encoder_out, lengths, 4160), valid) <= laws.BOUND


# --- scores


def test_top_scores_are_the_ctc_heads_best(trained: TrainedModel, plain: StreamingModel) -> None:
    scores, _ = plain.step(samples(0, 1, 3200), torch.tensor([3200]), *FULL_CONTEXT, plain.init_state(1, 1, 0))
    out = StepOutput(*scores)
    log_probs = plain.ctc(out.encoder_out)
    assert out.top_ids.shape == (1, 10, 13), "the vocabulary has 13 tokens, fewer than the search asks for"
    assert laws.difference(out.top_log_probs, log_probs.gather(2, out.top_ids)) <= laws.BOUND
    assert laws.difference(out.top_log_probs, log_probs.sort(dim=2, descending=True).values) <= laws.BOUND
    assert laws.difference(out.blank_log_probs, log_probs[:, :, 0]) <= laws.BOUND
    assert torch.allclose(log_probs.exp().sum(2), torch.ones(1, 10))


def encoder_out(frames: int = 7) -> Tensor:
    return laws.noise(5, 1, frames, 16)


@laws.random_geometries
@given(st.lists(st.lists(st.integers(3, 12), max_size=5), min_size=1, max_size=5), st.sampled_from([0, 7]))
def test_rescoring_many_equals_rescoring_each_alone(
    plain: StreamingModel, hypotheses: list[list[int]], filler: int
) -> None:
    longest = max(len(ids) for ids in hypotheses)
    padded = torch.tensor([ids + [filler] * (longest - len(ids)) for ids in hypotheses], dtype=torch.int64)
    together = plain.rescore(encoder_out(), padded, torch.tensor([len(ids) for ids in hypotheses]))
    alone = [
        plain.rescore(encoder_out(), torch.tensor([ids], dtype=torch.int64), torch.tensor([len(ids)]))
        for ids in hypotheses
    ]
    assert together.shape == (len(hypotheses), 2)
    assert laws.difference(together, torch.cat(alone)) <= laws.BOUND


def test_rescoring_computes_keys_and_values_once_for_all_hypotheses(plain: StreamingModel) -> None:
    seen: list[torch.Size] = []
    products = [module.source_attention.key_value for module in plain.modules() if hasattr(module, "source_attention")]
    handles = [product.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape)) for product in products]
    plain.rescore(encoder_out(), torch.full([10, 4], 3), torch.full([10], 4))
    for handle in handles:
        handle.remove()
    assert len(products) >= 2 and seen == [torch.Size([1, 7, 16])] * len(products)


@pytest.mark.parametrize("ids", [[], [3], [3, 7, 4, 4]])
def test_rescoring_is_the_teacher_forced_loss(trained: TrainedModel, plain: StreamingModel, ids: list[int]) -> None:
    scores = plain.rescore(encoder_out(), torch.tensor([ids], dtype=torch.int64), torch.tensor([len(ids)]))[0]
    for column, (decoder, order) in enumerate([(plain.decoder, ids), (plain.reverse_decoder, ids[::-1])]):
        logits = decoder(torch.tensor([[SOS_EOS, *order]]), encoder_out(), torch.tensor([7]))[0]
        loss = nn.functional.cross_entropy(logits, torch.tensor([*order, SOS_EOS]), reduction="sum")
        assert scores[column].item() == pytest.approx(-loss.item(), rel=1e-10)


@pytest.mark.parametrize("layers, reverse_layers", [(0, 0), (1, 0)])
def test_decoders_that_a_model_lacks_score_zero(trained: TrainedModel, layers: int, reverse_layers: int) -> None:
    config = trained.config.model
    decoder = DecoderConfig(layers=layers, reverse_layers=reverse_layers, heads=2, feed_forward=8)
    model = StreamingModel(AsrModel(type(config)(config.frontend, config.encoder, decoder, config.loss), 13)).eval()
    scores = model.rescore(encoder_out(), torch.tensor([[3, 4]]), torch.tensor([2]))[0]
    assert [bool(score) for score in scores] == [layers > 0, reverse_layers > 0]


def test_latency_is_the_chunk() -> None:
    assert latency(0.04, Chunking(16, 4)) == {"longest_wait_ms": 640.0, "mean_wait_ms": 320.0, "look_ahead_ms": 0.0}
