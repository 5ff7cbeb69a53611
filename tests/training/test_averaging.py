"""Averaged checkpoints: the mean of the weights, and BatchNorm statistics of their own."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import soundfile
import torch
from conftest import tiny_recipe
from support.data.sequential_epochs import sequential_recipe, source
from support.data.shards import in_ranks, write_shards
from support.model import laws
from support.model.rank_processes import run_ranks
from support.model.runs import with_training
from support.model.tones import lively

from wenet_fusion.config import to_yaml
from wenet_fusion.model.asr_model import AsrModel
from wenet_fusion.model.layers.norm import MOMENTUM, norms
from wenet_fusion.ranks import Placement, Ranks
from wenet_fusion.recipe import build_dataset
from wenet_fusion.trained_model import average, estimation_batches, load_trained, measure, restore
from wenet_fusion.training.state.averaging import average_checkpoints, choose_checkpoints, reestimate_statistics
from wenet_fusion.training.state.checkpoint import list_checkpoints, load_model, save_model

CPU = Placement(torch.device("cpu"))
BATCHES = 5


def is_statistic(name):
    return "running_" in name


@pytest.fixture(scope="module")
def paths(tone_run):
    return choose_checkpoints(tone_run.model_dir, 3, best=False)


@pytest.fixture(scope="module")
def with_damage(tone_run, tmp_path_factory):
    """The training list with one more utterance, which cannot be decoded."""
    path = tmp_path_factory.mktemp("damaged") / "bad.wav"
    soundfile.write(path.with_suffix(".flac"), np.random.default_rng(0).uniform(-0.5, 0.5, 8000), 8000)
    flac = path.with_suffix(".flac").read_bytes()
    path.write_bytes(flac[: len(flac) // 2])
    line = {"key": "bad", "wav": str(path), "txt": "one", "duration": 1.0}
    data_list = tone_run.train_list.with_name("damaged.list")
    data_list.write_text(tone_run.train_list.read_text() + json.dumps(line) + "\n")
    return data_list


def test_audio_that_cannot_be_decoded_is_reported(tone_run, paths, with_damage):
    skipped = average(paths, with_damage, 100, CPU).skipped
    assert [skip.key for skip in skipped] == ["bad"]
    measured = measure(load_model(paths[-1]), with_damage, CPU)
    assert [skip.key for skip in measured.skipped] == ["bad"] and measured.rate_name == "WER"
    assert measured.checkpoint.dev_error_rate < 0.5


@pytest.fixture(scope="module")
def averaged(tone_run, paths):
    """The average of the last three checkpoints, with re-estimated statistics."""
    return average(paths, tone_run.train_list, BATCHES, CPU).checkpoint


def test_weights_are_the_mean_and_the_rest_is_the_last_ones(paths, averaged):
    checkpoints = [load_model(path) for path in paths]
    assert averaged.weights.keys() == checkpoints[0].weights.keys()
    for name, value in averaged.weights.items():
        if not is_statistic(name) and value.is_floating_point():
            mean = torch.stack([checkpoint.weights[name].double() for checkpoint in checkpoints]).mean(0)
            assert value.dtype == torch.float32
            torch.testing.assert_close(value, mean.float(), rtol=2e-7, atol=0, msg=name)  # one rounding to float32
    last = checkpoints[-1]
    assert (averaged.config_yaml, averaged.units, averaged.step) == (last.config_yaml, last.units, 100)
    assert averaged.dev_loss != averaged.dev_loss, "it is not measured yet"


def test_one_checkpoint_is_its_own_average(paths):
    weights, last = average_checkpoints(paths[-1:]).weights, load_model(paths[-1]).weights
    assert all(torch.equal(weights[name], last[name]) for name in last)


def plain_statistics(model, batches):
    """Return for each norm the mean over batches of its input's mean and variance, computed independently."""
    means, variances = {}, {}

    def listen(norm, arguments):
        rows = arguments[0]
        channels = rows.transpose(0, 1).flatten(1).double()
        means.setdefault(norm, []).append(channels.mean(1))
        variances.setdefault(norm, []).append(channels.var(1))

    handles = [norm.register_forward_pre_hook(listen) for norm in norms(model)]
    model.train()
    with torch.no_grad():
        for batch, chunking in batches:
            model.encode(batch.samples_BN, batch.sample_lengths_B, chunking)
    for handle in handles:
        handle.remove()
    return [(torch.stack(means[norm]).mean(0), torch.stack(variances[norm]).mean(0)) for norm in norms(model)]


def statistics(checkpoint, origin):
    return [(norm.running_mean, norm.running_var) for norm in norms(restore(checkpoint, origin).model)]


def largest_difference(found, expected):
    return max(
        float((value.double() - target.double()).abs().max() / target.abs().max().clamp(min=1e-9))
        for pair, target_pair in zip(found, expected, strict=True)
        for value, target in zip(pair, target_pair)
    )


def test_statistics_are_those_of_the_data(tone_run, paths, averaged):
    plain = restore(average_checkpoints(paths), paths[-1])  # mean weights, statistics of the last checkpoint
    dataset = build_dataset(tone_run.recipe, tone_run.train_list, plain.tokenizer, augmented=True)
    expected = plain_statistics(plain.model, estimation_batches(tone_run.recipe, dataset, BATCHES))
    assert largest_difference(statistics(averaged, paths[-1]), expected) < 1e-4
    # Seeded bug: the statistics are not estimated.
    assert largest_difference(statistics(average_checkpoints(paths), paths[-1]), expected) > 1e-2


def test_statistics_come_from_all_chunkings_without_dropout(tiny_units, tone_run):
    recipe = lively(tiny_recipe(tiny_units))
    dataset = build_dataset(recipe, tone_run.train_list, load_trained(tone_run.checkpoint).tokenizer, augmented=True)
    chunkings = [chunking for _, chunking in estimation_batches(recipe, dataset, BATCHES)]
    assert len(chunkings) == BATCHES and {chunking.size for chunking in chunkings} >= {4, 8, 1 << 30}
    torch.manual_seed(0)
    model = AsrModel(recipe.model, 13)
    torch.manual_seed(1)
    found = []
    for _ in range(2):  # dropout would make them differ
        reestimate_statistics(model, estimation_batches(recipe, dataset, 2), CPU)
        found.append([norm.running_mean.clone() for norm in norms(model)])
    assert laws.difference(*found) < 1e-5
    assert all(norm.momentum == MOMENTUM and not norm.frozen for norm in norms(model))


def test_choosing(tone_run, tmp_path):
    everything = list_checkpoints(tone_run.model_dir)
    assert choose_checkpoints(tone_run.model_dir, 2, best=False) == everything[-2:]
    for path, loss in zip(everything, (3.0, 1.0, 4.0, 2.0), strict=True):
        save_model(dataclasses.replace(load_model(path), dev_loss=loss), tmp_path / path.name)
    best = choose_checkpoints(tmp_path, 2, best=True)
    assert [path.name for path in best] == [everything[1].name, everything[3].name]
    for number in (0, 3):
        unmeasured = dataclasses.replace(load_model(everything[number]), dev_loss=float("nan"))
        save_model(unmeasured, tmp_path / everything[number].name)
    best = choose_checkpoints(tmp_path, 2, best=True)
    assert [path.name for path in best] == [path.name for path in everything[1:3]], "NaN is worst"


def test_too_few_checkpoints_are_refused(tone_run, tmp_path):
    for folder, count, message in (
        (tmp_path, 1, "holds no step_.*train first"),
        (tone_run.model_dir, 5, "holds 4 checkpoints, fewer than --num 5: give --num 4 .*, train longer, or"),
        (tone_run.model_dir, 0, "--num 0: .*at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            choose_checkpoints(folder, count, best=False)
    with pytest.raises(ValueError, match="--batches 0: .*at least 1"):
        average(list_checkpoints(tone_run.model_dir), tone_run.train_list, 0, CPU)


def test_checkpoints_of_different_runs_are_refused(tone_run, paths, tmp_path):
    other = tmp_path / "step_000001.pt"
    last = load_model(paths[-1])
    for change in ({"units": (*last.units, "four")}, {"config_yaml": last.config_yaml.replace("seed: 1", "seed: 2")}):
        save_model(dataclasses.replace(last, **change), other)
        with pytest.raises(ValueError, match=f"{other} and {paths[-1]} are of different models"):
            average_checkpoints([other, paths[-1]])
    shutil.copy(paths[0], other)
    average_checkpoints([other, paths[-1]])


def statistics_of_rank(ranks, paths, train_list):
    averaged = average(paths, train_list, BATCHES, Placement(torch.device("cpu"), ranks)).checkpoint
    return {name: value for name, value in averaged.weights.items() if is_statistic(name)}


def test_two_ranks_find_the_statistics_of_one(paths, tone_run, averaged, tmp_path):
    """Of 5 batches, one rank has 3 and the other 2; each batch keeps its chunking."""
    for found in run_ranks(statistics_of_rank, 2, tmp_path, paths, tone_run.train_list):
        for name, value in found.items():
            torch.testing.assert_close(value, averaged.weights[name], rtol=1e-4, atol=1e-5, msg=name)


def test_a_sequential_run_is_averaged_from_its_shards(tone_run, paths, tmp_path):
    """From the first batches of an epoch, also in two ranks; only sequential lists may have ranges of names."""
    recipe = sequential_recipe(tone_run.recipe)
    recipe = with_training(recipe, max_batch_rows=3, max_batch_seconds=60.0)
    for path in paths[-2:]:
        save_model(dataclasses.replace(load_model(path), config_yaml=to_yaml(recipe)), tmp_path / path.name)
    shards = write_shards(tmp_path, (6, 6, 6))
    shards.write_text("shard_{0..2}.tar\n")
    runs = list_checkpoints(tmp_path)
    averaged = average(runs, shards, 3, CPU)
    assert averaged.skipped == [] and measure(averaged.checkpoint, shards, CPU).rate_name == "WER"

    def batches(ranks=Ranks(), count=3):
        found = estimation_batches(recipe, source(recipe, shards), count, ranks)
        return [(batch.keys, chunking) for batch, chunking in found]

    plain = restore(average_checkpoints(runs), runs[-1])
    expected = plain_statistics(plain.model, estimation_batches(recipe, source(recipe, shards), 3))
    assert largest_difference(statistics(averaged.checkpoint, runs[-1]), expected) < 1e-4
    first, second = in_ranks(2, batches)
    assert len(first) == 2 and [*first[:1], *second] == batches(count=2), "beyond that, ranks share the ends of lanes"
    assert batches()[0] == batches(count=1)[0] and len(batches(count=100)) < 18
