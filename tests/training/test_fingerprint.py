"""Resuming: refused changes, allowed changes, and leftovers of another run."""

import dataclasses
import json
import re
import shutil

import pytest
from conftest import tiny_recipe
from support.model.runs import differences, killed_run, start, with_training
from support.model.tones import lively

from wenet_fusion.data.filters import Filters
from wenet_fusion.training.state.averaging import average_checkpoints
from wenet_fusion.training.state.checkpoint import (
    checkpoint_name,
    list_checkpoints,
    load_training_state,
    save_training_state,
)
from wenet_fusion.training.state.fingerprint import changed_settings


@pytest.fixture(scope="module")
def recipe(tiny_units):
    """Epochs have 5 updates; the state is saved at every second step and every epoch."""
    changes = {"max_steps": 9, "max_batch_rows": 4, "max_batch_seconds": 60.0, "save_interval_steps": 2}
    return with_training(lively(tiny_recipe(tiny_units)), **changes)


@pytest.fixture(scope="module")
def whole(recipe, corpus, tmp_path_factory):
    """The directory of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    start(recipe, corpus, folder).run()
    return folder


@pytest.fixture(scope="module")
def killed(recipe, corpus, tmp_path_factory):
    return killed_run(recipe, corpus, tmp_path_factory.mktemp("killed") / "run")


def test_a_run_with_another_vocabulary_is_not_resumed(recipe, corpus, killed, tmp_path):
    units = tmp_path / "units.txt"
    units.write_text("<blank> 0\n<unk> 1\n<sos/eos> 2\none 3\ntwo 4\nthree 5\n")
    tokenizer = dataclasses.replace(recipe.tokenizer, units=str(units))
    with pytest.raises(ValueError) as caught:
        start(dataclasses.replace(recipe, tokenizer=tokenizer), corpus, killed)
    for part in (str(killed), "vocabulary of 13 tokens", "the 6 of this run", "choose another --model_dir"):
        assert part in str(caught.value)


def test_a_run_with_another_configuration_is_not_resumed(recipe, corpus, killed):
    before = (killed / "train_log.jsonl").read_bytes()
    encoder = dataclasses.replace(recipe.model.encoder, conv_kernel=5)
    other = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, encoder=encoder))
    with pytest.raises(ValueError, match=r"another configuration \(then: conv_kernel: 4; now: conv_kernel: 5\)"):
        start(other, corpus, killed)
    assert (killed / "train_log.jsonl").read_bytes() == before, "a refused run changes nothing"


def test_settings_that_change_no_weight_may_change_in_between(recipe, corpus, killed, whole, tmp_path):
    shutil.copytree(killed, tmp_path / "run")
    changes = {"num_workers": 1, "save_interval_steps": 3, "keep_checkpoints": 7, "validate_interval_steps": 4}
    start(with_training(recipe, **changes), corpus, tmp_path / "run").run()
    left, right = (load_training_state(folder) for folder in (whole, tmp_path / "run"))
    assert differences(left.weights, right.weights) == [] and left.step == right.step
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == [checkpoint_name(n) for n in (4, 8, 9)]
    average_checkpoints([tmp_path / "run/step_000009.pt", whole / "step_000009.pt"])


def test_a_finished_run_is_extended_where_its_steps_do_not_depend_on_its_end(recipe, corpus, whole, tmp_path):
    start(with_training(recipe, max_steps=7), corpus, tmp_path / "run").run()
    start(recipe, corpus, tmp_path / "run").run()
    left, right = (load_training_state(folder) for folder in (whole, tmp_path / "run"))
    assert differences(left.weights, right.weights) == []


def test_a_run_planned_from_its_end_is_not_extended(recipe, corpus, tmp_path):
    linear = dataclasses.replace(recipe.training.optim, decay="linear")
    for name, changes in (("linear", {"optim": linear}), ("frozen", {"frozen_statistics_steps": 1})):
        short = with_training(recipe, max_steps=1, **changes)
        start(short, corpus, tmp_path / name).run()
        message = r"then: max_steps: 1; now: max_steps: 2\); .* can change only with decay: inverse_sqrt"
        with pytest.raises(ValueError, match=message):
            start(with_training(short, max_steps=2), corpus, tmp_path / name)


def test_the_treatment_of_special_tokens_is_compared_where_tokens_are_not():
    """For a list, the tokens themselves are compared; sequential shards have no list of tokens."""
    for data_type, changed in (("raw", []), ("sequential", ["tokenizer.special_tokens"])):
        one, other = (
            f"tokenizer:\n  special_tokens: {treatment}\ndata:\n  data_type: {data_type}\n"
            for treatment in ("refuse", "remove")
        )
        assert changed_settings(one, other, step=1) == changed


def test_max_steps_may_change_until_the_last_steps_begin():
    def settings(max_steps, decay, frozen=0):
        return (
            f"training:\n  max_steps: {max_steps}\n  frozen_statistics_steps: {frozen}\n"
            f"  optim:\n    decay: {decay}\n    decay_steps: 3\n"
        )

    for decay, frozen, step, changed in (
        ("wsd", 0, 7, False),
        ("wsd", 0, 8, True),
        ("wsd", 5, 6, True),
        ("constant", 0, 10, False),
        ("constant", 5, 5, False),
        ("cosine", 0, 1, True),
        ("linear", 0, 1, True),
    ):
        for lengths in ((10, 20), (20, 10)):
            one, other = (settings(length, decay, frozen) for length in lengths)
            found = changed_settings(one, other, step)
            assert found == ["training.max_steps"] * changed, (decay, frozen, step)


def test_a_run_of_a_version_with_fewer_settings_goes_on(recipe, corpus, killed, tmp_path):
    """A setting that the old state lacks has the default; any other value would be another run."""
    shutil.copytree(killed, tmp_path / "run")
    state = load_training_state(killed)
    older = re.sub(
        r"^  (average_decay: .*|freeze:\n    steps: .*\n    layers: .*)\n", "", state.config_yaml, flags=re.M
    )
    assert len(older.splitlines()) == len(state.config_yaml.splitlines()) - 4
    save_training_state(dataclasses.replace(state, config_yaml=older), tmp_path / "run")
    assert start(recipe, corpus, tmp_path / "run").step == 2
    with pytest.raises(ValueError, match=r"\(then: average_decay: 0.0; now: average_decay: 0.9\)"):
        start(with_training(recipe, average_decay=0.9), corpus, tmp_path / "run")


def test_a_run_is_not_resumed_with_other_data(recipe, corpus, killed, tmp_path):
    lines = corpus[0].read_text().splitlines(keepends=True)
    other = corpus[0].with_name("other.list")
    for changed in (lines[1:], [*lines[1:], lines[0]]):
        other.write_text("".join(changed))
        message = r"trained on other data \((1 utterance is missing|the order changed)\), .*give the --train_data"
        with pytest.raises(ValueError, match=message):
            start(recipe, (other, corpus[1]), killed)
    shutil.copytree(killed, tmp_path / "run")
    # states of an earlier version, which kept a digest, and of an even earlier one
    state = dataclasses.replace(load_training_state(killed), train_hashes=None, dev_hashes=None)
    save_training_state(state, tmp_path / "run")
    with pytest.raises(ValueError, match=r"other data \(20 utterances, checksum \w+; now .*give the --train_data"):
        start(recipe, (other, corpus[1]), tmp_path / "run")
    assert start(recipe, corpus, tmp_path / "run").step == 2
    save_training_state(dataclasses.replace(state, data_digest=""), tmp_path / "run")
    assert start(recipe, (other, corpus[1]), tmp_path / "run").step == 2


def test_a_changed_transcript_is_reported(recipe, corpus, killed, tmp_path, capsys):
    lines = [json.loads(line) for line in corpus[0].read_text().splitlines()]
    other = corpus[0].with_name("changed.list")
    key = lines[4]["key"]
    lines[4]["txt"] += " " + lines[4]["txt"].split()[0]
    other.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match=rf"trained on other data \(the transcript of {key} changed\), so its run"):
        start(recipe, (other, corpus[1]), killed)
    shutil.copytree(killed, tmp_path / "run")
    assert start(recipe, (corpus[0], other), tmp_path / "run").step == 2, "the dev list changes no weight"
    assert "note: the dev list has changed (" in capsys.readouterr().err
    lines[4]["txt"] = json.loads(corpus[0].read_text().splitlines()[4])["txt"] + " \u200b"
    other.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert start(recipe, (other, corpus[1]), tmp_path / "run").step == 2, "the same tokens"
    assert "note" not in capsys.readouterr().err


def test_another_extent_of_the_audio_is_reported(recipe, corpus, killed):
    lines = [json.loads(line) for line in corpus[0].read_text().splitlines()]
    lines[2]["channel"] = 1
    other = corpus[0].with_name("changed.list")
    other.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match=f"the duration, start or channel of {lines[2]['key']} changed"):
        start(recipe, (other, corpus[1]), killed)


def test_a_run_of_a_version_that_took_durations_from_the_audio_goes_on(recipe, corpus, killed, tmp_path, capsys):
    """The list states rounded durations, which this version trusts."""
    lines = [json.loads(line) for line in corpus[0].read_text().splitlines()]
    stated = corpus[0].with_name("stated.list")
    for line in lines:
        line["duration"] = 1.1
    stated.write_text("".join(json.dumps(line) + "\n" for line in lines))
    shutil.copytree(killed, tmp_path / "run")
    state = load_training_state(killed)
    assert state.batch == 2 and state.trusts_durations
    save_training_state(dataclasses.replace(state, trusts_durations=False), tmp_path / "run")
    assert start(recipe, corpus, tmp_path / "run").batch == 2, "the same durations"
    assert "note" not in capsys.readouterr().err
    resumed = start(recipe, (stated, corpus[1]), tmp_path / "run")
    printed = capsys.readouterr()
    assert (resumed.step, resumed.batch) == (2, 0)
    assert "took durations from the audio, this version trusts those of the list, and they differ" in printed.err
    assert "the source of durations has changed: epoch 0 starts again" in printed.out
    resumed.run()
    assert load_training_state(tmp_path / "run").trusts_durations
    with pytest.raises(ValueError, match="the duration, start or channel of .* changed"):
        start(recipe, corpus, tmp_path / "run")
    shutil.copytree(killed, tmp_path / "other")
    save_training_state(dataclasses.replace(state, trusts_durations=False), tmp_path / "other")
    lines[3]["txt"] += " " + lines[3]["txt"].split()[0]
    stated.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match=rf"\(the transcript of {lines[3]['key']} changed\)"):
        start(recipe, (stated, corpus[1]), tmp_path / "other")
    digest = dataclasses.replace(state, train_hashes=None, dev_hashes=None, trusts_durations=False)
    save_training_state(digest, tmp_path / "other")
    with pytest.raises(ValueError, match="if the list is the same, leave durations out of its lines"):
        start(recipe, (stated, corpus[1]), tmp_path / "other")


def test_a_run_of_a_version_without_filters_goes_on(recipe, corpus, killed, tmp_path):
    """That version trained on an utterance beyond today's limits; the message says how to keep it."""
    shutil.copytree(killed, tmp_path / "run")
    state = load_training_state(killed)
    older = re.sub(r"^  filters:\n(    .*\n)+", "", state.config_yaml, flags=re.M)
    assert len(older.splitlines()) == len(state.config_yaml.splitlines()) - 5
    save_training_state(dataclasses.replace(state, config_yaml=older), tmp_path / "run")

    def filtered(**limits):
        return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, filters=Filters(**limits)))

    with pytest.raises(ValueError, match=r"other data \(\d+ utterances? \w+ missing\).* no data.filters: ") as caught:
        start(filtered(longest_tokens=1), corpus, tmp_path / "run")
    limits = dict(re.findall(r"data\.filters\.(\w+)=(\d+)", str(caught.value)))
    keeps_all = filtered(**{name: type(getattr(Filters(), name))(value) for name, value in limits.items()})
    assert len(limits) == 4 and keeps_all.data.filters.problems() == []
    assert start(keeps_all, corpus, tmp_path / "run").batch == 2
    with pytest.raises(ValueError, match="another configuration .*longest_seconds: 86400"):
        start(keeps_all, corpus, killed)


def test_a_run_of_a_version_without_special_tokens_goes_on(recipe, corpus, killed, tmp_path):
    shutil.copytree(killed, tmp_path / "run")
    state = load_training_state(killed)
    earlier = state.config_yaml.replace("  special_tokens: refuse\n", "")
    assert earlier != state.config_yaml
    save_training_state(dataclasses.replace(state, config_yaml=earlier), tmp_path / "run")
    assert start(recipe, corpus, tmp_path / "run").step == 2


def test_checkpoints_of_another_run_do_not_stay(recipe, corpus, tmp_path, capsys):
    """If they stayed, their higher steps would count as the newest, and every new checkpoint would be deleted."""
    folder = tmp_path / "run"
    folder.mkdir()
    for step in (100, 200):
        (folder / checkpoint_name(step)).touch()
    (folder / "avg_5.pt").touch()
    recipe = with_training(recipe, max_steps=3, validate_interval_steps=1, keep_checkpoints=2)
    start(recipe, corpus, folder).run()
    message = "run is at step 0: renamed 2 checkpoints of later steps to old_* (step_000100.pt to step_000200.pt)\n"
    assert message in capsys.readouterr().out
    assert [path.name for path in list_checkpoints(folder)] == [checkpoint_name(step) for step in (2, 3)]
    assert all((folder / name).exists() for name in ("avg_5.pt", "old_step_000100.pt", "old_step_000200.pt"))
    start(recipe, corpus, folder)
    assert "renamed" not in capsys.readouterr().out


def test_how_hypotheses_are_rescored_may_change(recipe, corpus, killed, tmp_path):
    rescoring = dataclasses.replace(recipe.model.rescoring, ctc_weight=7.0)
    other = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, rescoring=rescoring))
    shutil.copytree(killed, tmp_path / "run")
    assert start(other, corpus, tmp_path / "run").step == 2
