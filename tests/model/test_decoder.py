"""Attention decoders: teacher forcing, causality, padding, and a search that equals an exhaustive one."""

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.model import laws
from torch import Tensor

from wenet_fusion.evaluation.attention_beam import AttentionHypothesis, attention_search
from wenet_fusion.model.decoder import (
    Decoder,
    DecoderConfig,
    DecoderState,
    KeysValues,
    TeacherForcing,
    sequence_log_probs,
    teacher_forcing,
)
from wenet_fusion.model.layers.positions.sinusoids import sinusoids

pytestmark = pytest.mark.usefixtures("float64")

SOS = 2


def decoder(vocabulary_size: int = 6, dim: int = 8, seed: int = 0) -> Decoder:
    torch.manual_seed(seed)
    return Decoder(vocabulary_size, dim, 2, DecoderConfig(heads=2, feed_forward=12)).eval()


# --- teacher forcing


def test_teacher_forcing_by_hand() -> None:
    tokens, lengths = torch.tensor([[5, 6, 7], [8, 9, 9], [9, 9, 9]]), torch.tensor([3, 1, 0])
    forward = teacher_forcing(tokens, lengths, SOS, reverse=False)
    mask = [[True] * 4, [True, True, False, False], [True, False, False, False]]
    assert forward.inputs_BU.tolist() == [[2, 5, 6, 7], [2, 8, 2, 2], [2, 2, 2, 2]]
    assert forward.targets_BU.tolist() == [[5, 6, 7, 2], [8, 2, 2, 2], [2, 2, 2, 2]]
    assert forward.mask_BU.tolist() == mask
    backward = teacher_forcing(tokens, lengths, SOS, reverse=True)
    assert backward.inputs_BU.tolist() == [[2, 7, 6, 5], [2, 8, 2, 2], [2, 2, 2, 2]]
    assert backward.targets_BU.tolist() == [[7, 6, 5, 2], [8, 2, 2, 2], [2, 2, 2, 2]]
    assert backward.mask_BU.tolist() == mask


def test_teacher_forcing_of_empty_transcripts_only() -> None:
    forcing = teacher_forcing(torch.zeros(2, 0, dtype=torch.int64), torch.tensor([0, 0]), SOS, reverse=True)
    assert forcing == TeacherForcing(*forcing) and forcing.inputs_BU.tolist() == forcing.targets_BU.tolist() == [
        [2],
        [2],
    ]


@pytest.mark.parametrize("reverse", [False, True])
@laws.random_geometries
@given(found=st.lists(st.integers(0, 5), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_padding_of_tokens(reverse: bool, found: list[int], seed: int) -> None:
    tokens = torch.randint(3, 9, (len(found), max(found) + 2), generator=torch.Generator().manual_seed(seed))
    lengths = torch.tensor(found)

    def measure(padded: Tensor) -> laws.Tree:
        forcing = teacher_forcing(padded, lengths, SOS, reverse)
        assert int(forcing.mask_BU.sum()) == sum(found) + len(found)
        return [part[:, : tokens.size(1) + 1].double() for part in forcing]

    assert laws.padding(measure, tokens, lengths, garbage=[-7, 0, 10**6]) == 0


# --- scores


@laws.random_geometries
@given(found=st.lists(st.integers(0, 4), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_sequence_log_probs_equal_a_loop(found: list[int], seed: int) -> None:
    logits = laws.noise(seed, len(found), max(found) + 1, 7)
    targets = torch.randint(0, 7, logits.shape[:2], generator=torch.Generator().manual_seed(seed))
    mask = laws.mask(torch.tensor(found) + 1, logits.size(1))
    expected = []
    for b, length in enumerate(found):
        steps = range(length + 1)
        expected.append(sum(float(logits[b, u, targets[b, u]] - logits[b, u].exp().sum().log()) for u in steps))
    assert laws.difference(sequence_log_probs(logits, targets, mask), torch.tensor(expected)) <= laws.BOUND


def test_an_output_depends_on_earlier_tokens_only() -> None:
    model, memory, lengths = decoder(), laws.noise(0, 1, 5, 8), torch.tensor([5])
    one, other = torch.tensor([[2, 3, 4, 5]]), torch.tensor([[2, 3, 5, 3]])
    before, after = model(one, memory, lengths), model(other, memory, lengths)
    assert laws.difference(after[:, :2], before[:, :2]) <= laws.BOUND
    assert laws.difference(after[:, 2:], before[:, 2:]) > laws.BROKEN


def memory_measure(model: Decoder, lengths: Tensor) -> Callable[[Tensor], laws.Tree]:
    """Return a measure whose garbage has a slope: the decoder normalises its memory, so a constant would vanish."""
    tokens = torch.randint(3, 6, (3, 4), generator=torch.Generator().manual_seed(0))
    slope = torch.linspace(1.0, 2.0, 8)

    def measure(memory: Tensor) -> laws.Tree:
        logits = model(tokens, slope * memory, lengths)
        return [logits, laws.gradients(logits.square().sum(), model)]

    return measure


FINITE = (1e30, -7.0)  # the encoder leaves no NaN behind: frames beyond a length are zeros or finite


def test_padding_of_encoder_frames() -> None:
    lengths, memory = torch.tensor([6, 2, 1]), laws.noise(1, 3, 6, 8)
    assert laws.padding(memory_measure(decoder(), lengths), memory, lengths, FINITE) <= laws.BOUND
    forgotten = memory_measure(decoder(), torch.tensor([6, 6, 6]))
    assert laws.padding(forgotten, memory, lengths, FINITE) > laws.BROKEN


@laws.random_geometries
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 5)), min_size=2, max_size=4), st.integers(0, 99))
def test_batch(sizes: list[tuple[int, int]], seed: int) -> None:
    """A row does not depend on its neighbours, which have other transcript lengths and other numbers of frames."""
    model, frames, tokens = decoder(), max(t for t, _ in sizes), max(u for _, u in sizes)
    memory = laws.noise(seed, len(sizes), frames, 8)
    prefixes = torch.randint(3, 6, (len(sizes), tokens), generator=torch.Generator().manual_seed(seed))
    together = model(prefixes, memory, torch.tensor([t for t, _ in sizes]))
    for b, (t, u) in enumerate(sizes):
        alone = model(prefixes[b : b + 1, :u], memory[b : b + 1, :t], torch.tensor([t]))
        assert laws.difference(together[b : b + 1, :u], alone) <= laws.BOUND


def test_positions_are_distinguished_and_have_no_limit() -> None:
    table = sinusoids(torch.arange(5000), 8, torch.zeros(()))
    assert table.shape == (5000, 8) and table.isfinite().all()
    assert torch.cdist(table[:200], table[:200]).add(torch.eye(200)).min() > 1e-2
    assert laws.difference(sinusoids(torch.arange(7), 8, torch.zeros(())), table[:7]) <= laws.BOUND


@pytest.mark.parametrize(
    "config, problem",
    [
        (DecoderConfig(heads=0), "heads: 0 must be at least 1"),
        (DecoderConfig(layers=0), "reverse_layers: 3 needs a left-to-right decoder (layers: 1 or more)"),
        (DecoderConfig(dropout=1.5), "dropout: 1.5 is not in [0, 1)"),
        (DecoderConfig(layers=-1, reverse_layers=0), "layers and reverse_layers must not be negative"),
    ],
)
def test_wrong_configurations_are_named(config: DecoderConfig, problem: str) -> None:
    assert config.problems() == [problem] and DecoderConfig().problems() == []


# --- search


def score(model: Decoder, memory: Tensor, ids: tuple[int, ...]) -> float:
    forcing = teacher_forcing(torch.tensor([ids], dtype=torch.int64), torch.tensor([len(ids)]), SOS, reverse=False)
    logits = model(forcing.inputs_BU, memory, torch.tensor([memory.size(1)]))
    return float(sequence_log_probs(logits, forcing.targets_BU, forcing.mask_BU))


@torch.no_grad()
def best_of_all(model: Decoder, memory: Tensor, tokens: list[int]) -> AttentionHypothesis:
    """Try every sequence with at most as many tokens as frames."""
    candidates = [ids for length in range(memory.size(1) + 1) for ids in itertools.product(tokens, repeat=length)]
    return max(
        (AttentionHypothesis(ids, score(model, memory, ids)) for ids in candidates), key=lambda found: found.score
    )


def eager_decoder(seed: int) -> Decoder:
    """Return a decoder that rarely ends: after some prefixes the end is improbable."""
    model = decoder(vocabulary_size=5, seed=seed)
    with torch.no_grad():
        model.out.weight.mul_(3.0)
        model.out.bias[SOS] -= 5.0
    return model


def search(model: Decoder, memory: Tensor, beam_size: int = 10) -> list[AttentionHypothesis]:
    """Search one utterance."""
    return attention_search(model, memory, torch.tensor([memory.size(1)]), beam_size)[0]


@pytest.mark.parametrize("seed", [0, 1, 3, 7, 9])
def test_search_equals_trying_everything(seed: int) -> None:
    model, memory = eager_decoder(seed), laws.noise(seed, 1, 4, 8)
    best = best_of_all(model, memory, [1, 3, 4])
    found = search(model, memory, beam_size=81)
    assert found[0].ids == best.ids and found[0].score == pytest.approx(best.score, rel=1e-9)
    assert [hypothesis.score for hypothesis in found] == sorted((h.score for h in found), reverse=True)
    with torch.no_grad():
        assert all(h.score == pytest.approx(score(model, memory, h.ids), rel=1e-9) for h in found)


def test_search_equality_detects_a_narrow_beam() -> None:
    model, memory = eager_decoder(7), laws.noise(7, 1, 4, 8)
    assert search(model, memory, beam_size=1)[0].score < best_of_all(model, memory, [1, 3, 4]).score


@laws.random_geometries
@given(st.lists(st.integers(0, 7), min_size=2, max_size=5), st.integers(1, 6), st.integers(0, 99))
def test_utterances_are_searched_together_as_alone(lengths: list[int], beam_size: int, seed: int) -> None:
    """Utterances end at different tokens, so the batch shrinks; frames beyond a length are garbage."""
    model, memory = eager_decoder(seed), laws.noise(seed, len(lengths), max(lengths) + 1, 8)
    together = attention_search(model, memory, torch.tensor(lengths), beam_size)
    for b, length in enumerate(lengths):
        alone = search(model, memory[b : b + 1, :length], beam_size)
        assert [found.ids for found in together[b]] == [found.ids for found in alone]
        scores = [torch.tensor([found.score for found in side]) for side in (together[b], alone)]
        assert laws.difference(*scores) <= laws.BOUND


def test_the_batch_law_of_search_sees_another_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeded bug: memories stay where they were when an utterance ends."""
    lengths = [1, 4, 7]
    model, memory = eager_decoder(1), laws.noise(1, 3, 7, 8)
    alone = [search(model, memory[b : b + 1, :length])[0].ids for b, length in enumerate(lengths)]
    assert [found[0].ids for found in attention_search(model, memory, torch.tensor(lengths))] == alone
    monkeypatch.setattr(
        DecoderState, "keep",
        lambda state, kept: state._replace(
            memory=tuple(KeysValues(*(part[: len(kept)] for part in pair)) for pair in state.memory),
            memory_mask_B1T=state.memory_mask_B1T[: len(kept)],
        ),
    )  # fmt: skip
    assert [found[0].ids for found in attention_search(model, memory, torch.tensor(lengths))] != alone


def test_token_by_token_equals_whole_prefixes() -> None:
    """The state of `step` replaces reading the prefix again, also when prefixes branch."""
    model, memory, lengths = decoder(), laws.noise(3, 2, 5, 8), torch.tensor([5, 3])
    first, second = torch.tensor([[SOS], [SOS]]), torch.tensor([[3, 4, 4], [5, 1, 3]])
    with torch.no_grad():
        logits, state = model.step(first, model.start(memory, lengths))
        assert laws.difference(logits, model(first, memory, lengths)) <= laws.BOUND
        logits, _ = model.step(second, state.follow(torch.tensor([0, 0, 0, 1, 1, 1])))
        for b, n in itertools.product(range(2), range(3)):
            prefix = torch.tensor([[SOS, int(second[b, n])]])
            whole = model(prefix, memory[b : b + 1], lengths[b : b + 1])[0, -1]
            assert laws.difference(logits[b, n], whole) <= laws.BOUND


def test_search_over_no_frames() -> None:
    assert search(decoder(), torch.zeros(1, 0, 8)) == [AttentionHypothesis((), 0.0)]


def test_the_beam_is_as_wide_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """This also holds if the vocabulary is smaller than the beam."""
    model, step, widths = eager_decoder(0), Decoder.step, []
    monkeypatch.setattr(
        Decoder, "step", lambda self, tokens, state: widths.append(tokens.shape) or step(self, tokens, state)
    )
    attention_search(model, laws.noise(0, 2, 4, 8), torch.tensor([4, 4]), beam_size=8)
    assert widths[:3] == [(2, 1), (2, 3), (2, 8)]


def test_scaled_embeddings_begin_as_large_as_positions() -> None:
    """By default embeddings are much larger than positions, and a decoder loses its place after a repeated token."""
    sizes = {}
    for kind in ("normal", "scaled"):
        decoder = Decoder(500, 64, 1, DecoderConfig(embedding_init=kind))
        placed = sinusoids(torch.arange(500), 64, torch.zeros(1)).norm(dim=1).mean()
        tokens = decoder.embedding.weight.detach() * 64**0.5  # as `_embed` adds them
        sizes[kind] = float(tokens.norm(dim=1).mean() / placed)
    assert sizes["normal"] > 10 and 1 < sizes["scaled"] < 2
