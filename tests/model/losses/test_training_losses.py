"""Losses that only training uses, CR-CTC (consistency of two views) and intermediate CTC: definitions and laws."""

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import randomise, tiny_recipe
from support.model import laws
from torch import Tensor

from wenet_fusion.model.asr_model import AsrModel, ModelConfig
from wenet_fusion.model.chunking import Chunking
from wenet_fusion.model.consistency import consistency_loss
from wenet_fusion.model.ctc import ctc_loss
from wenet_fusion.model.encoder_config import EncoderConfig
from wenet_fusion.model.losses import LossConfig, Losses

pytestmark = pytest.mark.usefixtures("float64")

CHUNKING = Chunking(4, 2)
LENGTHS = torch.tensor([5000, 2561, 3200])
TOKENS, TOKEN_LENGTHS = torch.tensor([[3, 4, 5], [6, 0, 0], [7, 7, 0]]), torch.tensor([3, 1, 2])
BATCH = LENGTHS, TOKENS, TOKEN_LENGTHS, CHUNKING


def asr_model(**changes: object) -> AsrModel:
    config = tiny_recipe(Path()).model
    encoder = dataclasses.replace(config.encoder, dropout=0.0, layers=3)
    decoder = dataclasses.replace(config.decoder, dropout=0.0)
    loss = dataclasses.replace(config.loss, **changes)
    torch.manual_seed(0)
    model = AsrModel(dataclasses.replace(config, encoder=encoder, decoder=decoder, loss=loss), 13)
    randomise(model, 0)
    return model.train()


def samples() -> Tensor:
    return 0.1 * laws.noise(0, 3, 5000)


def masks(seed: int) -> Tensor:
    return laws.noise(seed, 3, 64, 40) > 1.0


# --- consistency


def test_the_consistency_loss_equals_its_definition() -> None:
    logits = laws.noise(0, 4, 6, 5).requires_grad_()
    lengths = torch.tensor([6, 3, 6, 3])
    log_probs = logits.log_softmax(-1)
    expected = torch.zeros(())
    for row, length in ((0, 6), (1, 3)):
        a, b = log_probs[row, :length], log_probs[row + 2, :length]
        for target, own in ((b, a), (a, b)):
            expected = expected + F.kl_div(own, target.detach(), reduction="sum", log_target=True) / 2
    found = consistency_loss(log_probs, lengths)
    gradients = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (found, expected)]
    assert laws.difference([found, gradients[0]], [expected, gradients[1]]) <= laws.BOUND
    assert found.item() > 0.1


def test_the_consistency_is_a_mean_over_utterances() -> None:
    """The sum over frames of arXiv 2410.05101 (3) is divided by the utterances; two views count as one utterance."""
    model = asr_model()
    encoded = model.encode(samples(), LENGTHS, CHUNKING, torch.cat([masks(1), masks(2)]))
    found = model.losses(encoded, TOKENS, TOKEN_LENGTHS).consistency
    views = model.ctc(encoded.frames_BTD).split(3)
    both_ways = torch.zeros(())
    for a, b, length in zip(*views, encoded.lengths_B.tolist()):
        for one, other in ((a[:length], b[:length]), (b[:length], a[:length])):
            both_ways += F.kl_div(one, other, reduction="sum", log_target=True)
    assert abs(found - both_ways / 2 / 3) <= laws.BOUND and found > 0.1


def test_two_views_are_a_batch_of_twice_as_many_rows() -> None:
    """BatchNorm uses the frames of both views; with weight 0, the loss is that of both views as one batch."""
    model, both = asr_model(), torch.cat([masks(1), masks(2)])
    twice = [torch.cat([tensor, tensor]) for tensor in (samples(), *BATCH[:3])]
    results = []
    for arguments in ((samples(), *BATCH, both), (*twice, CHUNKING, both)):
        clone = copy.deepcopy(model)
        losses = clone(*arguments)
        results.append([*losses[:3], laws.gradients(losses.total, clone), laws.statistics(clone)])
    assert laws.difference(*results) <= laws.BOUND


def test_the_weight_adds_the_consistency_to_the_ctc_loss() -> None:
    model, both = asr_model(), torch.cat([masks(1), masks(2)])
    plain, weighed = (copy.deepcopy(model)(samples(), *BATCH, both, None, weight) for weight in (0.0, 0.2))
    assert float(plain.consistency) == float(weighed.consistency) > 0
    added = float(weighed.total - plain.total)
    assert added == pytest.approx(model.config.loss.ctc_weight * 0.2 * float(plain.consistency), rel=1e-9)
    same = copy.deepcopy(model)(samples(), *BATCH, torch.cat([masks(1), masks(1)]), None, 0.2)
    assert abs(float(same.consistency)) < 1e-12, "equal views agree"


def test_the_weight_rises_from_zero() -> None:
    config = LossConfig(consistency_weight=0.2, consistency_warmup_steps=4)
    assert [config.consistency_at(step) for step in (1, 2, 4, 9)] == pytest.approx([0.05, 0.1, 0.2, 0.2])
    assert LossConfig().consistency_at(10**6) == 0


# --- intermediate CTC


@pytest.mark.parametrize("heads", ["shared", "own"])
def test_the_intermediate_loss_equals_its_definition(heads: str) -> None:
    model = asr_model(intermediate_layers=(1, 2), intermediate_weight=0.4, intermediate_heads=heads)
    losses = copy.deepcopy(model)(samples(), *BATCH)
    expected = []
    for layers in (1, 2, 3):  # the encoder cut off after that many layers
        clone = copy.deepcopy(model)
        clone.encoder.layers = clone.encoder.layers[:layers]
        encoded = clone.encode(samples(), LENGTHS, CHUNKING)
        head = clone.ctc if heads == "shared" or layers == 3 else clone.intermediate_heads[layers - 1]
        expected.append(float(ctc_loss(head(encoded.frames_BTD), encoded.lengths_B, TOKENS, TOKEN_LENGTHS)) / 3)
    assert float(losses.intermediate) == pytest.approx((expected[0] + expected[1]) / 2, rel=1e-9)
    assert float(losses.ctc) == pytest.approx(expected[2], rel=1e-9)
    weight = model.config.loss.ctc_weight
    total = weight * (0.6 * losses.ctc + 0.4 * losses.intermediate) + (1 - weight) * losses.attention
    assert laws.difference(losses.total, total) <= laws.BOUND


def measured(model: AsrModel, waveform: Tensor) -> laws.Tree:
    clone = copy.deepcopy(model)
    losses: Losses = clone(waveform, *BATCH)
    return [*losses, laws.statistics(clone), laws.gradients(losses.total, clone)]


def test_padding_changes_no_loss_of_training() -> None:
    model = asr_model(intermediate_layers=(1,), intermediate_heads="own", delay_penalty=0.02)
    assert laws.padding(lambda waveform: measured(model, waveform), samples(), LENGTHS, more=777) <= laws.BOUND


def test_losses_of_training_are_left_out_in_evaluation() -> None:
    model = asr_model(intermediate_layers=(1,), delay_penalty=0.1).eval()
    plain = asr_model().eval()
    found, expected = model(samples(), *BATCH), plain(samples(), *BATCH)
    assert laws.difference(list(found), list(expected)) <= laws.BOUND and float(found.intermediate) == 0


def test_only_own_intermediate_heads_add_parameters() -> None:
    assert len(asr_model(intermediate_layers=(1, 2), intermediate_heads="own").intermediate_heads) == 2
    assert not any("intermediate" in name for name in asr_model(intermediate_layers=(1, 2)).state_dict())
    names = asr_model(intermediate_layers=(2,), intermediate_heads="own").vocabulary_parameters()
    assert {"ctc.linear.weight", "intermediate_heads.0.linear.bias", "reverse_decoder.out.weight"} <= set(names)


def test_problems_are_named() -> None:
    for layers in ((0,), (12,), (2, 2)):
        problems = ModelConfig(loss=LossConfig(intermediate_layers=layers), encoder=EncoderConfig()).problems()
        assert len(problems) == 1 and "must be different and below encoder.layers: 12" in problems[0]
    loss = LossConfig(intermediate_weight=2, consistency_weight=-1, consistency_warmup_steps=-1, delay_penalty=-1)
    assert [problem.split(":")[0] for problem in loss.problems()] == [
        "intermediate_weight", "consistency_weight", "consistency_warmup_steps", "delay_penalty",
    ]  # fmt: skip
