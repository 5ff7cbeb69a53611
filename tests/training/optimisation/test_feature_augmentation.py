"""Changes of features in an update: which features the model gets, and which draws stay the same."""

from pathlib import Path

import pytest
import torch
from conftest import tiny_recipe
from support.model import laws

from wenet_fusion.data.augmentation.feature_masks import SpecAugmentConfig
from wenet_fusion.data.augmentation.feature_substitution import SubstitutionConfig
from wenet_fusion.data.augmentation.feature_trim import TrimConfig
from wenet_fusion.data.batch import Batch
from wenet_fusion.model.asr_model import AsrModel
from wenet_fusion.model.chunking import FULL_CONTEXT
from wenet_fusion.model.ctc import frames_needed
from wenet_fusion.model.losses import Losses
from wenet_fusion.training.optimisation.update import Gradients
from wenet_fusion.training.training_config import TrainingConfig

pytestmark = pytest.mark.usefixtures("float64")


def build_model() -> AsrModel:
    torch.manual_seed(0)
    return AsrModel(tiny_recipe(Path()).model, 13).eval()


def noise_batch() -> Batch:
    """Return two utterances; the transcript of the second fills its 12 encoder frames."""
    tokens = torch.tensor([[3, 4] + [0] * 9, [3, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]])
    samples = 0.1 * laws.noise(0, 2, 16_000)
    return Batch(("u1", "u2"), samples, torch.tensor([16_000, 3840]), tokens, torch.tensor([2, 11]))


def calls(changes: SpecAugmentConfig, model: AsrModel, steps: int = 20) -> list[tuple]:
    """Return the arguments that the model gets in updates with these changes."""
    found = []

    class Recorder(torch.nn.Module):
        def forward(self, *arguments: torch.Tensor) -> Losses:
            found.append(arguments)
            return Losses(*(torch.zeros((), requires_grad=True) for _ in range(5)))

    gradients = Gradients(model, TrainingConfig(), changes, seed=0)
    gradients._parallel = Recorder()
    for step in range(steps):
        gradients.compute(step, [noise_batch()], torch.optim.SGD(model.parameters()), stop=False)
    return found


def test_one_change_leaves_the_draws_of_the_others() -> None:
    model = build_model()
    masks = SpecAugmentConfig(2, 10, 2, 6, 0.3)
    substituted = SpecAugmentConfig(2, 10, 2, 6, 0.3, SubstitutionConfig(2, 20))
    both = SpecAugmentConfig(2, 10, 2, 6, 0.3, SubstitutionConfig(2, 20), TrimConfig(1))
    plain, changed = calls(masks, model), calls(substituted, model)
    assert all(torch.equal(left[5], right[5]) for left, right in zip(plain, changed)), "the masks"
    assert all(call[6] is None for call in plain) and all(call[6] is not None for call in changed)
    untrimmed = [(left, right) for left, right in zip(changed, calls(both, model)) if torch.equal(left[1], right[1])]
    assert untrimmed and all(torch.equal(left[6], right[6]) for left, right in untrimmed), "the substituted spans"


def test_trimmed_utterances_have_the_features_of_whole_ones_and_room_for_their_transcripts() -> None:
    model, batch = build_model(), noise_batch()
    hop = model.config.frontend.frame_samples // 4
    whole = model.features(batch.samples_BN, batch.sample_lengths_B)
    trimmed = set()
    changed = calls(SpecAugmentConfig(0, 0, 0, 0, 0.0, trim=TrimConfig(40)), model, steps=7)
    for samples, lengths, tokens, token_lengths, *_ in changed:
        assert samples.size(1) == int(lengths.max())
        found = model.features(samples, lengths)
        for row, length in enumerate(lengths.tolist()):
            needed = frames_needed(tokens[row, : token_lengths[row]].tolist())
            assert needed <= int(model.frames(lengths)[row])
            frames = length // hop
            assert laws.difference(found[row, :frames], whole[row, :frames]) <= laws.BOUND
            trimmed.add((row, length < int(batch.sample_lengths_B[row])))
    assert trimmed == {(0, True), (1, False)}, "the second utterance has no frame to spare"


def test_frames_are_taken_from_their_sources_before_masks_apply() -> None:
    model, samples = build_model(), 0.1 * laws.noise(0, 1, 3200)
    lengths, mask = torch.tensor([3200]), torch.zeros(1, 40, 40, dtype=torch.bool)
    mask[:, 12:14] = True
    sources = torch.arange(40)[None].clone()
    sources[0, 10:20] -= 5
    found = model.encode(samples, lengths, FULL_CONTEXT, mask, sources).frames_BTD
    features = model.features(samples, lengths)
    features[:, 10:20] = features[:, 5:15].clone()
    features[:, 12:14] = 0.0
    expected = model.encoder(features, torch.tensor([10]), FULL_CONTEXT, model.encoder.init_state(1, 0)).frames_BTD
    assert laws.difference(found, expected) <= laws.BOUND
