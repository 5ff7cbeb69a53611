"""Batches, waveform changes, masks and the dataset: complete, repeatable, and every skipped utterance is reported."""

import dataclasses
import json

import numpy as np
import pytest
import soundfile
import torch
from wenet_fusion_runtime.results.vocabulary import Vocabulary

from wenet_fusion.config import ConfigError, config_from_mapping
from wenet_fusion.data import judgement
from wenet_fusion.data.augmentation.feature_masks import SpecAugmentConfig
from wenet_fusion.data.augmentation.waveforms import Augmentation
from wenet_fusion.data.batching import epoch_batches
from wenet_fusion.data.dataset import SpeechDataset
from wenet_fusion.data.judgement import FrontendGeometry
from wenet_fusion.data.lists.manifest import read_manifest
from wenet_fusion.data.loading import iterate
from wenet_fusion.text.tokenizer import CharTokenizer

RATE = 8000
FRONTEND = FrontendGeometry(sample_rate=RATE, frame_samples=320, right_padding_samples=640)
TOKENIZER = CharTokenizer(Vocabulary(("<blank>", "<unk>", "<sos/eos>", "one", "two"), "words", "units.txt"))


# ---- batches


# ---- waveforms and masks


def test_configuration_problems():
    mapping = {"speed_factors": [0.0], "gain_db": [3, -3], "noise_probability": 2}
    with pytest.raises(ConfigError) as caught:
        config_from_mapping(Augmentation, mapping, "c")
    assert len(caught.value.problems) == 3
    with pytest.raises(ConfigError, match="max_time_fraction"):
        config_from_mapping(SpecAugmentConfig, {"max_time_fraction": 1.5}, "c")


# ---- datasets


def corpus(folder, count=12):
    """Write utterances u0, u1, ... of 0.4 s or more with one or two words; the last one has no words."""
    lines = []
    for number in range(count):
        path = folder / f"u{number}.wav"
        samples = np.random.default_rng(number).uniform(-0.5, 0.5, RATE * (4 + number) // 10)
        soundfile.write(path, samples, RATE, subtype="PCM_16")
        text = " ".join(["one", "two"][: (number + 1) % 3])
        lines.append(json.dumps({"key": f"u{number}", "wav": path.name, "txt": text}) + "\n")
    (folder / "data.list").write_text("".join(lines))
    return read_manifest(folder / "data.list", "raw")


AUGMENTATION = Augmentation((0.9, 1.0, 1.1), (-6.0, 6.0), (5.0, 20.0), 0.5)


def test_batch_contents(tmp_path):
    dataset = SpeechDataset(corpus(tmp_path), TOKENIZER, FRONTEND)
    assert dataset.seconds == pytest.approx([0.1 * (4 + number) for number in range(12)]) and not dataset.skipped
    batch = dataset.batch([1, 2, 0], epoch=0)
    assert batch.keys == ("u1", "u2", "u0")
    assert batch.sample_lengths_B.tolist() == [4000 + 640, 4800 + 640, 3200 + 640]
    assert batch.samples_BN.shape == (3, 5440) and batch.samples_BN.dtype == torch.float32
    assert batch.tokens_BU.tolist() == [[3, 4], [0, 0], [3, 0]] and batch.token_lengths_B.tolist() == [2, 0, 1]
    expected, _ = soundfile.read(tmp_path / "u1.wav", dtype="float32")
    assert np.array_equal(batch.samples_BN[0, :4000].numpy(), expected) and not batch.samples_BN[0, 4000:].any()


def equal(left, right):
    same = [torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(left, right)]
    return len(left) == len(right) and all(same)


def test_draws_depend_on_seed_epoch_and_index_only(tmp_path):
    utterances = corpus(tmp_path)
    dataset = SpeechDataset(utterances, TOKENIZER, FRONTEND, AUGMENTATION, seed=1)
    first = dataset.batch([5, 3], epoch=2)
    dataset.batch([1, 7], epoch=0)
    torch.manual_seed(9)
    assert equal(first, dataset.batch([5, 3], epoch=2))
    length = first.sample_lengths_B[1]
    assert torch.equal(dataset.batch([3], epoch=2).samples_BN[0, :length], first.samples_BN[1, :length])
    assert not equal(first, dataset.batch([5, 3], epoch=3))
    assert not equal(first, SpeechDataset(utterances, TOKENIZER, FRONTEND, AUGMENTATION, seed=2).batch([5, 3], 2))


def test_each_utterance_has_its_own_draws(tmp_path):
    """The same recording twice in one batch, under two indices."""
    (first, *_) = corpus(tmp_path, 1)
    twice = [first, dataclasses.replace(first, key="again")]
    batch = SpeechDataset(twice, TOKENIZER, FRONTEND, AUGMENTATION).batch([0, 1], epoch=0)
    assert not torch.equal(batch.samples_BN[0], batch.samples_BN[1])


def test_a_digest_changes_with_keys_durations_and_order(tmp_path):
    utterances = corpus(tmp_path)
    digest = SpeechDataset(utterances, TOKENIZER, FRONTEND).digest
    assert digest == SpeechDataset(utterances, TOKENIZER, FRONTEND).digest
    renamed = [dataclasses.replace(utterances[0], key="other"), *utterances[1:]]
    shorter = [dataclasses.replace(utterances[3], seconds=0.5, start=0.0, end=0.5)]
    for changed in (renamed, utterances[1:], [*utterances[:3], *shorter, *utterances[4:]], utterances[::-1]):
        assert SpeechDataset(changed, TOKENIZER, FRONTEND).digest != digest


def test_workers_give_the_same_batches_and_leave_torch_alone(tmp_path):
    dataset = SpeechDataset(corpus(tmp_path), TOKENIZER, FRONTEND, AUGMENTATION)
    plan = epoch_batches(dataset.seconds, 2.0, 4, seed=0, epoch=1)
    state = torch.get_rng_state()
    batches = [list(iterate(dataset, plan, 1, workers)) for workers in (0, 2)]
    assert torch.equal(state, torch.get_rng_state()), "a new iterator must not move the dropout of a resumed run"
    assert len(batches[0]) == len(plan) and all(map(equal, *batches))
    assert [batch.keys for batch in batches[0]] == [tuple(f"u{index}" for index in entry) for entry in plan]
    rest = list(iterate(dataset, plan[2:], 1, 0))
    assert all(map(equal, rest, batches[0][2:])), "a resumed epoch goes on with the same batches"


def test_random_state_check_sees_a_loader_without_its_own_generator():
    state = torch.get_rng_state()
    list(torch.utils.data.DataLoader([1, 2]))
    assert not torch.equal(state, torch.get_rng_state())


def test_unusable_utterances_are_counted_with_their_reasons(tmp_path):
    utterances = [dataclasses.replace(item, seconds=0.0) for item in corpus(tmp_path)]
    (tmp_path / "u1.wav").write_bytes(b"")
    (tmp_path / "u2.wav").write_bytes(b"RIFF....WAVEjunk")
    soundfile.write(tmp_path / "u3.wav", np.zeros(0), RATE)
    utterances[4] = dataclasses.replace(utterances[4], text="one seven")
    utterances[5] = dataclasses.replace(utterances[5], text=" ".join(["one"] * 50))
    dataset = SpeechDataset(utterances, TOKENIZER, FRONTEND, max_skipped=0.5)
    reasons = {skip.key: skip.reason for skip in dataset.skipped}
    assert list(reasons) == ["u1", "u2", "u3", "u4", "u5"] and len(dataset) == 7
    for key, words in {
        "u1": "u1.wav: is an empty file",
        "u2": "u2.wav: cannot be read",
        "u3": "u3.wav: has no samples",
        "u4": "'seven' in 'one seven'",
        "u5": "25 frames are too few for the 99 that its 50 tokens need",
    }.items():
        assert words in reasons[key]
    with pytest.raises(
        ValueError, match="5 of 12 utterances cannot be used:\n  .*data.list:2: u1: (.*\n)*more than 40 % is too many"
    ):
        SpeechDataset(utterances, TOKENIZER, FRONTEND, max_skipped=0.4)


def test_too_short_is_judged_at_the_highest_speed(tmp_path):
    utterances = corpus(tmp_path, 1)
    # 0.4 s and the right padding are 12 frames; at twice the speed 7.
    utterances = [dataclasses.replace(utterances[0], text=" ".join(["one", "two"] * 5))]
    assert not SpeechDataset(utterances, TOKENIZER, FRONTEND, Augmentation()).skipped
    with pytest.raises(ValueError, match="7 frames at the highest speed factor 2 are too few for the 10"):
        SpeechDataset(utterances, TOKENIZER, FRONTEND, Augmentation((1.0, 2.0)))


@pytest.mark.parametrize("workers", [0, 1])
def test_audio_that_breaks_later_is_skipped_and_counted(tmp_path, workers):
    dataset = SpeechDataset(corpus(tmp_path), TOKENIZER, FRONTEND, max_skipped=0.2)
    (tmp_path / "u2.wav").write_bytes(b"")
    (tmp_path / "u9.wav").unlink()
    plan = [[0, 1, 2], [9], [4, 9]]
    for _ in range(2):
        keys = [batch.keys for batch in iterate(dataset, plan, 0, workers)]
        assert keys == [("u0", "u1"), ("u10",), ("u4",)], "one batch for every entry of the plan"
        assert [skip.key for skip in dataset.skipped] == ["u2", "u9"], "each is counted once"
    (tmp_path / "u5.wav").write_bytes(b"")
    with pytest.raises(ValueError, match="^3 of 12 utterances cannot be used:\n  .*data.list:3: u2: .*u2.wav"):
        list(iterate(dataset, [[5]], 0, workers))


def test_truncated_flac_is_found_when_it_is_decoded(tmp_path):
    utterances = corpus(tmp_path)
    path = tmp_path / "long.flac"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 10 * RATE), RATE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    utterances[0] = dataclasses.replace(utterances[0], source=utterances[0].source._replace(path=str(path)))
    dataset = SpeechDataset(utterances, TOKENIZER, FRONTEND, max_skipped=0.2)
    assert dataset.batch([0, 1], 0).keys == ("u1",)
    assert "long.flac: is damaged" in dataset.skipped[0].reason


def test_checking_and_training_judge_alike(tmp_path):
    """Both find each kind of damage, with the same message; training loads all utterances that the check accepts."""
    utterances = corpus(tmp_path)
    damaged = tmp_path / "damaged.flac"
    soundfile.write(damaged, np.random.default_rng(0).uniform(-0.5, 0.5, 10 * RATE), RATE)
    damaged.write_bytes(damaged.read_bytes()[:-20000])
    utterances[3] = dataclasses.replace(utterances[3], source=utterances[3].source._replace(path=str(damaged)))
    utterances[4] = dataclasses.replace(utterances[4], text="one seven")
    checked = SpeechDataset(utterances, TOKENIZER, FRONTEND, AUGMENTATION, max_skipped=1.0)
    checked.decode_all()
    trained = SpeechDataset(utterances, TOKENIZER, FRONTEND, AUGMENTATION, max_skipped=1.0)
    loaded = [key for batch in iterate(trained, [[n] for n in range(len(trained))], 0, 0) for key in batch.keys]
    assert sorted(checked.skipped) == sorted(trained.skipped) and [skip.key for skip in trained.skipped] == ["u4", "u3"]
    count, hours = checked.used()
    assert count == len(set(loaded)) == 10
    assert hours * 3600 == pytest.approx(sum(0.1 * (4 + n) for n in range(12) if n not in (3, 4)))


def test_a_reading_shorter_than_its_header_is_judged_at_the_highest_speed(tmp_path, monkeypatch):
    """Otherwise the draw of the speed would decide whether an utterance is used."""
    utterances = [dataclasses.replace(corpus(tmp_path, 1)[0], text=" ".join(["one", "two"] * 3))]
    dataset = SpeechDataset(utterances, TOKENIZER, FRONTEND, Augmentation((0.5, 1.0, 2.0)), max_skipped=1.0)
    monkeypatch.setattr(judgement, "read_samples", lambda utterance, rate, longest: np.zeros(1200, np.float32))
    for epoch in range(5):
        with pytest.raises(ValueError, match=r"u0.wav: 4 frames at the highest speed factor 2 are too few for the 6"):
            dataset.load([0], epoch)


def test_transcripts_that_were_normalised_or_cut_are_reported(tmp_path):
    utterances = corpus(tmp_path, 3)
    utterances[0] = dataclasses.replace(utterances[0], text="one\u200b")
    utterances[1] = dataclasses.replace(utterances[1], text="[noise] two")
    dataset = SpeechDataset(utterances, CharTokenizer(TOKENIZER.vocabulary, "remove"), FRONTEND)
    assert dataset.batch([0, 1], 0).tokens_BU.tolist() == [[3], [4]]
    assert dataset.notes() == (
        "1 of 3 transcripts was normalised (1 with invisible characters): u0",
        "special tokens were removed from transcripts: [noise] 1",
    )


def test_nothing_readable_ends_with_a_message_not_a_loop(tmp_path):
    gone = corpus(tmp_path)
    dataset = SpeechDataset(gone, TOKENIZER, FRONTEND, max_skipped=1.0)
    for path in tmp_path.glob("*.wav"):
        path.unlink()
    for workers in (0, 1):
        with pytest.raises(ValueError, match="^none of these utterances can be read:\n  .*data.list:1: u0: "):
            list(iterate(dataset, [[0]], 0, workers))
    with pytest.raises(ValueError, match="there are no utterances"):
        SpeechDataset([], TOKENIZER, FRONTEND)
    unknown = [dataclasses.replace(utterance, seconds=0.0) for utterance in gone]
    with pytest.raises(ValueError, match="there are no utterances to use\n  .*:1: u0: .*u0.wav.*\n  .*:2: u1: "):
        SpeechDataset(unknown, TOKENIZER, FRONTEND, max_skipped=1.0)
