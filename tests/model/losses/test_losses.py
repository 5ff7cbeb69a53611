"""CTC and attention losses: definitions, difficult transcripts, and the laws padding and batch."""

import copy
import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import randomise, tiny_recipe
from hypothesis import given
from hypothesis import strategies as st
from support.model import laws
from torch import Tensor

from wenet_fusion.model.asr_model import AsrModel, FrontendConfig, ModelConfig
from wenet_fusion.model.chunking import FULL_CONTEXT, Chunking
from wenet_fusion.model.ctc import BLANK, ctc_loss
from wenet_fusion.model.decoder import DecoderConfig
from wenet_fusion.model.encoder import EncoderOutput
from wenet_fusion.model.losses import LossConfig

pytestmark = pytest.mark.usefixtures("float64")

CHUNKING = Chunking(4, 2)


def asr_model(loss: LossConfig = LossConfig(), dropout: float = 0.0, decoder: DecoderConfig | None = None) -> AsrModel:
    config = tiny_recipe(Path()).model
    encoder = dataclasses.replace(config.encoder, dropout=dropout)
    decoder = dataclasses.replace(decoder or config.decoder, dropout=dropout)
    torch.manual_seed(0)
    model = AsrModel(dataclasses.replace(config, encoder=encoder, decoder=decoder, loss=loss), 13)
    with torch.no_grad():
        model.cmvn.mean.fill_(8.0)
        model.cmvn.inverse_std.fill_(0.3)
    return randomise(model).eval()


def tokens(*lengths: int) -> tuple[Tensor, Tensor]:
    ids = torch.randint(3, 13, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(0))
    return ids, torch.tensor(lengths)


# --- CTC


def by_definition(log_probs_TV: Tensor, target: tuple[int, ...]) -> float:
    """Sum over every alignment: merge repeats, drop blanks, compare."""
    frames, size = log_probs_TV.shape
    total = 0.0
    for path in itertools.product(range(size), repeat=frames):
        merged = [unit for unit, _ in itertools.groupby(path)]
        if tuple(unit for unit in merged if unit != BLANK) == target:
            total += float(log_probs_TV[range(frames), path].sum().exp())
    return -float(torch.tensor(total).log())


@laws.random_geometries
@given(st.integers(1, 5), st.lists(st.integers(1, 2), max_size=3), st.integers(0, 99))
def test_ctc_loss_equals_its_definition(frames: int, target: list[int], seed: int) -> None:
    log_probs = laws.noise(seed, 1, frames, 3).log_softmax(-1)
    found = float(
        ctc_loss(
            log_probs, torch.tensor([frames]), torch.tensor([target], dtype=torch.int64), torch.tensor([len(target)])
        )
    )
    expected = by_definition(log_probs[0], tuple(target))
    assert found == pytest.approx(expected if expected < float("inf") else 0.0, rel=1e-9)


def test_empty_and_infeasible_transcripts_give_finite_gradients() -> None:
    logits = laws.noise(0, 4, 3, 5).requires_grad_()
    ids, lengths = torch.tensor([[3, 4, 3, 4], [0, 0, 0, 0], [3, 3, 3, 0], [3, 4, 0, 0]]), torch.tensor([4, 0, 3, 2])
    losses = [
        ctc_loss(logits[b : b + 1].log_softmax(-1), torch.tensor([3]), ids[b : b + 1], lengths[b : b + 1])
        for b in range(4)
    ]
    assert [loss.item() == 0 for loss in losses] == [True, False, True, False], (
        "4 tokens, or 3 with a repeat, do not fit 3 frames"
    )
    total = ctc_loss(logits.log_softmax(-1), torch.tensor([3] * 4), ids, lengths)
    assert total.item() == pytest.approx(sum(losses).item())
    total.backward()
    assert logits.grad.isfinite().all()
    assert [bool(row.any()) for row in logits.grad] == [False, True, False, True]
    assert losses[1].item() == pytest.approx(-logits[1].log_softmax(-1)[:, BLANK].sum().item())


def test_half_precision_is_summed_in_float32() -> None:
    log_probs = laws.noise(0, 1, 6, 5).log_softmax(-1)
    arguments = torch.tensor([6]), torch.tensor([[3, 4]]), torch.tensor([2])
    half = ctc_loss(log_probs.half(), *arguments)
    assert half.dtype == torch.float32
    assert float(half) == pytest.approx(float(ctc_loss(log_probs, *arguments)), rel=1e-2)


# --- attention and the joint loss


def smoothed(logits_UV: Tensor, targets: list[int], smoothing: float) -> float:
    """Return the cross entropy with a share of the target spread evenly over all tokens."""
    log_probs = logits_UV.log_softmax(-1)
    rows = zip(log_probs, targets)
    return float(sum(-(1 - smoothing) * row[unit] - smoothing * row.mean() for row, unit in rows))


@torch.no_grad()
@pytest.mark.parametrize("reverse_weight, smoothing", [(0.0, 0.0), (0.3, 0.1), (1.0, 0.1)])
def test_the_joint_loss_equals_its_definition(reverse_weight: float, smoothing: float) -> None:
    model = asr_model(LossConfig(ctc_weight=0.4, reverse_weight=reverse_weight, label_smoothing=smoothing))
    frames, lengths = laws.noise(0, 2, 9, 16), torch.tensor([9, 6])
    ids, token_lengths = torch.tensor([[3, 4, 5], [6, 0, 0]]), torch.tensor([3, 1])
    losses = model.losses(EncoderOutput(frames, lengths, None), ids, token_lengths)
    expected = {"ctc": 0.0, "forward": 0.0, "backward": 0.0}
    for row, text in enumerate([[3, 4, 5], [6]]):
        memory, count = frames[row : row + 1, : lengths[row]], lengths[row : row + 1]
        expected["ctc"] += float(ctc_loss(model.ctc(memory), count, torch.tensor([text]), torch.tensor([len(text)])))
        for name, decoder, order in (("forward", model.decoder, text), ("backward", model.reverse_decoder, text[::-1])):
            logits = decoder(torch.tensor([[2, *order]]), memory, count)[0]
            expected[name] += smoothed(logits, [*order, 2], smoothing)
    attention = (1 - reverse_weight) * expected["forward"] + reverse_weight * expected["backward"]
    assert float(losses.ctc) == pytest.approx(expected["ctc"] / 2, rel=1e-9)
    assert float(losses.attention) == pytest.approx(attention / 2, rel=1e-9)
    assert float(losses.total) == pytest.approx((0.4 * expected["ctc"] + 0.6 * attention) / 2, rel=1e-9)


def test_a_model_without_decoders_has_only_the_ctc_loss() -> None:
    model = asr_model(LossConfig(ctc_weight=1.0, reverse_weight=0.0), decoder=DecoderConfig(layers=0, reverse_layers=0))
    losses = model(laws.noise(0, 1, 3200), torch.tensor([3200]), *tokens(3), FULL_CONTEXT)
    assert losses.total == losses.ctc and losses.attention == 0


# --- laws


SAMPLE_LENGTHS = torch.tensor([5000, 2561, 3200])  # the last frame (320 samples) is cut, has just begun, or is whole
TOKEN_LENGTHS = (3, 0, 4)


def measured(model: AsrModel, training: bool, token_garbage: int = 0) -> Callable[[Tensor], laws.Tree]:
    """Return losses, statistics and all gradients of whole utterances; dropout draws the same numbers each time."""
    ids, lengths = tokens(*TOKEN_LENGTHS)
    ids = ids.masked_fill(~laws.mask(lengths, ids.size(1)), token_garbage)

    def measure(samples: Tensor) -> laws.Tree:
        clone = copy.deepcopy(model).train(training)
        torch.manual_seed(0)
        losses = clone(samples, SAMPLE_LENGTHS, ids, lengths, CHUNKING)
        return [*losses, laws.statistics(clone), laws.gradients(losses.total, clone)]

    return measure


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_padding_of_samples(training: bool) -> None:
    samples = 0.1 * laws.noise(0, 3, 5000)
    assert laws.padding(measured(asr_model(), training), samples, SAMPLE_LENGTHS, more=777) <= laws.BOUND


def test_padding_of_samples_detects_statistics_over_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = 0.1 * laws.noise(0, 3, 5000)
    everything = lambda lengths, frames: torch.arange(lengths.numel() * frames)
    monkeypatch.setattr("wenet_fusion.model.encoder.valid_frames", everything)
    assert laws.padding(measured(asr_model(), True), samples, SAMPLE_LENGTHS, more=777) > laws.BROKEN


def test_padding_of_tokens() -> None:
    model, samples = asr_model(), 0.1 * laws.noise(0, 3, 5000)
    target = measured(model, True)(samples)
    for garbage in (-7, 5, 10**6):
        assert laws.difference(measured(model, True, garbage)(samples), target) <= laws.BOUND


def test_padding_of_dropout() -> None:
    """Dropout falls on valid frames only, so padding shifts none of its draws in the encoder."""
    model, samples = asr_model(dropout=0.2), 0.1 * laws.noise(0, 3, 5000)

    def measure(padded: Tensor) -> Tensor:
        torch.manual_seed(0)
        out = model.train().encode(padded, SAMPLE_LENGTHS, CHUNKING).frames_BTD
        return laws.valid(out, (SAMPLE_LENGTHS + 319) // 320, out.size(1))

    assert laws.padding(measure, samples, SAMPLE_LENGTHS, more=640) <= laws.BOUND


def test_batch() -> None:
    """In evaluation the loss of a batch is the mean of its rows' losses."""
    model, samples = asr_model(), 0.1 * laws.noise(0, 3, 5000)
    ids, lengths = tokens(*TOKEN_LENGTHS)
    together = model(samples, SAMPLE_LENGTHS, ids, lengths, CHUNKING)
    alone = [
        model(
            samples[b : b + 1, : SAMPLE_LENGTHS[b]],
            SAMPLE_LENGTHS[b : b + 1],
            ids[b : b + 1],
            lengths[b : b + 1],
            CHUNKING,
        )
        for b in range(3)
    ]
    assert laws.difference(list(together), [sum(parts) / 3 for parts in zip(*alone)]) <= laws.BOUND


def test_feature_masks_blank_to_the_mean() -> None:
    model, samples = asr_model(), 0.1 * laws.noise(0, 1, 3200)
    mask = torch.zeros(1, 40, 40, dtype=torch.bool)
    plain = model.encode(samples, torch.tensor([3200]), FULL_CONTEXT).frames_BTD
    nothing = model.encode(samples, torch.tensor([3200]), FULL_CONTEXT, mask).frames_BTD
    assert laws.difference(nothing, plain) <= laws.BOUND
    mask[:, :, 5:] = True
    masked = model.encode(samples, torch.tensor([3200]), FULL_CONTEXT, mask).frames_BTD
    features = model.features(samples, torch.tensor([3200]))
    features[:, :, 5:] = 0.0
    expected = model.encoder(features, torch.tensor([10]), FULL_CONTEXT, model.encoder.init_state(1, 0)).frames_BTD
    assert laws.difference(masked, expected) <= laws.BOUND


# --- configuration


@pytest.mark.parametrize(
    "config, problem",
    [
        (LossConfig(ctc_weight=1.5), "ctc_weight: 1.5 is not between 0 and 1"),
        (FrontendConfig(sample_rate=8), "sample_rate: 8 Hz is below 1000; give it in Hz"),
        (FrontendConfig(num_mel_bins=6), "num_mel_bins: 6 is below 7, too few to subsample"),
        (FrontendConfig(hop_ms=30.0), "hop_ms: 30.0 must be above 0 and at most window_ms: 25.0"),
        (FrontendConfig(right_padding_frames=-1), "right_padding_frames: -1 is negative"),
        (ModelConfig(decoder=DecoderConfig(heads=3)), "encoder.dim: 256 is not a multiple of decoder.heads: 3"),
        (
            ModelConfig(decoder=DecoderConfig(reverse_layers=0)),
            "loss.reverse_weight: must be 0 without a right-to-left decoder (decoder.reverse_layers: 0)",
        ),
        (
            ModelConfig(decoder=DecoderConfig(layers=0, reverse_layers=0), loss=LossConfig(reverse_weight=0.0)),
            "loss.ctc_weight: must be 1 without a decoder (decoder.layers: 0)",
        ),
    ],
)
def test_wrong_configurations_are_named(config: LossConfig | FrontendConfig | ModelConfig, problem: str) -> None:
    assert config.problems() == [problem]
    assert ModelConfig().problems() == LossConfig().problems() == FrontendConfig().problems() == []
