"""Delay-penalised CTC: the definition over all alignments, CTC at penalty 0, and earlier emission in training."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.model import laws
from torch import Tensor

from wenet_fusion.model.ctc import BLANK, ctc_loss
from wenet_fusion.model.delay_penalty import delay_penalised_ctc_loss

pytestmark = pytest.mark.usefixtures("float64")


def by_definition(log_probs_TV: Tensor, target: list[int], penalty: float) -> float:
    """Sum over all alignments, each with the delay of the first frame of each token."""
    frames, size = log_probs_TV.shape
    total = 0.0
    for path in itertools.product(range(size), repeat=frames):
        starts = [t for t in range(frames) if path[t] != BLANK and (t == 0 or path[t] != path[t - 1])]
        if [path[t] for t in starts] == target:
            advance = sum((frames - 1) / 2 - t for t in starts)
            total += math.exp(sum(float(log_probs_TV[t, unit]) for t, unit in enumerate(path)) + penalty * advance)
    return -math.log(total) if total else 0.0


@laws.random_geometries
@given(
    frames=st.integers(1, 6),
    target=st.lists(st.integers(1, 2), max_size=3),
    penalty=st.sampled_from([0.0, 0.05, 0.7]),
    seed=st.integers(0, 99),
)
def test_the_loss_equals_its_definition(frames: int, target: list[int], penalty: float, seed: int) -> None:
    log_probs = laws.noise(seed, 1, frames, 3).log_softmax(-1)
    tokens = torch.tensor([target], dtype=torch.int64)
    found = delay_penalised_ctc_loss(log_probs, torch.tensor([frames]), tokens, torch.tensor([len(target)]), penalty)
    assert float(found) == pytest.approx(by_definition(log_probs[0], target, penalty), rel=1e-9, abs=1e-12)


def batch() -> tuple[Tensor, ...]:
    """Return rows of different lengths: one transcript is empty, one does not fit, and garbage follows each row."""
    lengths, token_lengths = torch.tensor([9, 5, 2, 7]), torch.tensor([3, 0, 2, 2])
    tokens = torch.tensor([[3, 3, 4], [1, 1, 1], [4, 4, 10**6], [2, 1, -7]])
    return laws.noise(0, 4, 9, 5).requires_grad_(), lengths, tokens, token_lengths


def test_without_a_penalty_it_is_ctc_with_the_same_gradient() -> None:
    logits, lengths, tokens, token_lengths = batch()
    clean = tokens.masked_fill(~laws.mask(token_lengths, 3), 1)
    expected = ctc_loss(logits.log_softmax(-1), lengths, clean, token_lengths)
    found = delay_penalised_ctc_loss(logits.log_softmax(-1), lengths, tokens, token_lengths, 0.0)
    gradients = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (found, expected)]
    assert laws.difference([found, gradients[0]], [expected, gradients[1]]) <= laws.BOUND
    assert not gradients[0][2].any(), "two equal tokens do not fit two frames"


def test_the_gradient_prefers_earlier_frames() -> None:
    """Where all frames look alike, CTC treats them by symmetry; a penalty pulls the token forward."""
    logits = torch.zeros(1, 9, 3, requires_grad=True)
    row = torch.tensor([9]), torch.tensor([[1]]), torch.tensor([1])
    centres = []
    for penalty in (0.0, 0.1, 0.3):
        (gradient,) = torch.autograd.grad(delay_penalised_ctc_loss(logits.log_softmax(-1), *row, penalty), logits)
        share = -gradient[0, :, 1] + gradient[0, :, 2]  # pull towards the token, compared with another token
        centres.append(float((share * torch.arange(9)).sum() / share.sum()))
    assert centres[0] == pytest.approx(4.0) and centres[0] > centres[1] + 0.1 and centres[1] > centres[2] + 0.1


def test_training_emits_earlier() -> None:
    """A model of the frames' scores alone, trained with and without the penalty."""
    found = []
    for penalty in (0.0, 0.3):
        logits = torch.zeros(1, 12, 3)
        logits[0, :, 1] = -((torch.arange(12) - 7.0) ** 2) / 20  # the audio says: about frame 7
        logits.requires_grad_()
        for _ in range(30):
            loss = delay_penalised_ctc_loss(
                logits.log_softmax(-1), torch.tensor([12]), torch.tensor([[1]]), torch.tensor([1]), penalty
            )
            (gradient,) = torch.autograd.grad(loss, logits)
            logits = (logits - 0.5 * gradient).detach().requires_grad_()
        found.append(int(logits[0, :, 1].argmax()))
    assert found[1] < found[0]
