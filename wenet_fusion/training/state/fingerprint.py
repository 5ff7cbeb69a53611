"""Check whether a training state belongs to the run that resumes it."""

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from torch import Tensor

from wenet_fusion.data.lists.contents import DataContents, describe_changes, without_extents
from wenet_fusion.ranks import Ranks
from wenet_fusion.training.state.checkpoint import TrainingState
from wenet_fusion.training.state.initialisation import NO_ORIGIN, Origin, check_same_origin

# Settings of the section `training` that do not affect the weights: loading of batches, saving, logging, memory.
NEUTRAL_SETTINGS = (
    "save_interval_steps", "save_in_background", "validate_interval_steps", "keep_checkpoints",
    "keep_best_checkpoints", "best_by", "dev_ctm", "check_largest_batch", "loggers", "num_workers",
    "checkpoint_activations",
)  # fmt: skip
# Settings that may change when a run resumes, e.g. because memory ran out; the epoch then starts again.
BATCH_SETTINGS = ("max_batch_seconds", "max_batch_rows", "accumulate")
_MAX_STEPS = "training.max_steps"
_FILTERS = "data.filters."


class RunFingerprint(NamedTuple):
    """Configuration, vocabulary and data of a run. Checkpoints contain the first two; `check_same_run` compares all of
    them when a run resumes.
    """

    config_yaml: str
    units: tuple[str, ...]  # the vocabulary's tokens
    bpe_model: bytes
    seed: int
    data_digest: str  # digest of the training set, see `SpeechDataset.digest`
    train_contents: DataContents
    dev_contents: DataContents
    defaults_yaml: str = ""  # the default configuration, for settings that a state of an older version lacks
    origin: Origin = NO_ORIGIN  # the checkpoint that gave the first weights


def weight_settings(config_yaml: str, defaults_yaml: str = "") -> dict[str, Any]:
    """Return the settings that the weights depend on, by their dotted keys.

    They exclude rescoring weights, and the settings of the batch size, which a resumed run may change.

    Args:
        config_yaml: a configuration in the form that `to_yaml` writes.
        defaults_yaml: values of settings that a configuration of an older version lacks.

    >>> weight_settings("training:\\n  num_workers: 1\\n  precision: float32\\n")
    {'training.precision': 'float32'}
    """
    settings = {**_flat(yaml.safe_load(defaults_yaml) or {}), **_flat(yaml.safe_load(config_yaml) or {})}
    neutral = {f"training.{name}" for name in (*NEUTRAL_SETTINGS, *BATCH_SETTINGS)}
    neutral |= {"data.sequential.retries", "data.sequential.allow_commands"}
    if settings.get("data.data_type") != "sequential":  # special_tokens changes only tokens, and these are compared
        neutral.add("tokenizer.special_tokens")
    return {
        name: value
        for name, value in settings.items()
        if name not in neutral and not name.startswith("model.rescoring.")
    }


def _flat(settings: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _flat(value, f"{path}{name}.") if isinstance(value, Mapping) else {f"{path}{name}": value}
    return found


def changed_settings(old_yaml: str, new_yaml: str, step: int, defaults_yaml: str = "") -> list[str]:
    """Return the settings that differ between two configurations and that the weights at `step` depend on.

    `max_steps` is one of them only if the steps so far depend on it: some schedules and frozen statistics count back
    from the last step. Filters are not included if the old configuration had none, because the data themselves are
    compared.
    """
    old, new = (weight_settings(text, defaults_yaml) for text in (old_yaml, new_yaml))
    found = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if not _has_filters(old_yaml):
        found = [name for name in found if not name.startswith(_FILTERS)]
    lengths = [settings.get(_MAX_STEPS, 0) for settings in (old, new)]
    if _MAX_STEPS in found and step <= min(lengths) - _steps_from_the_end(new):
        found.remove(_MAX_STEPS)
    return found


def _steps_from_the_end(settings: Mapping[str, Any]) -> float:
    """Return the number of last steps that depend on `max_steps`; minus infinity if none do."""
    decay = settings.get("training.optim.decay")
    if decay in ("linear", "cosine"):
        return math.inf
    last = [settings.get("training.frozen_statistics_steps", 0)]
    last += [settings.get("training.optim.decay_steps", 0)] * (decay == "wsd")
    return max(last) if max(last) > 0 else -math.inf


def _has_filters(config_yaml: str) -> bool:
    return any(name.startswith(_FILTERS) for name in _flat(yaml.safe_load(config_yaml) or {}))


def changed_batches(state: TrainingState, fingerprint: RunFingerprint) -> str:
    """Return what has changed the batches since a state was saved; empty if nothing has, so the epoch can go on."""
    before, now = (_flat(yaml.safe_load(text)) for text in (state.config_yaml, fingerprint.config_yaml))
    if any(before.get(f"training.{name}") != now.get(f"training.{name}") for name in BATCH_SETTINGS):
        return "the size of the batches"
    return "the source of durations" if _has_other_durations(state, fingerprint.train_contents) else ""


def _has_other_durations(state: TrainingState, now: DataContents) -> bool:
    """Return whether a state has durations that were measured from the audio and differ from those of the list."""
    hashes = None if state.trusts_durations else state.train_hashes
    return hashes is not None and not hashes.equal(now.hashes)


def _changes(state: TrainingState, before: Tensor, now: DataContents) -> str:
    """Describe the differences between two lists, without durations if the state measured them from the audio."""
    if state.trusts_durations:
        return describe_changes(before, now)
    return describe_changes(without_extents(now._replace(hashes=before)).hashes, without_extents(now))


def check_same_run(state: TrainingState, fingerprint: RunFingerprint, model_dir: Path) -> None:
    """Check that the training state of `model_dir` belongs to the run of `fingerprint`.

    The dev list may differ, because it does not affect the weights; a note then says that dev losses are not
    comparable. Durations may differ if an earlier version measured them from the audio; this also gives a note.

    Raises:
        ValueError: the state belongs to another run; the message names the difference and the remedy.
    """
    if state.units != fingerprint.units:
        raise ValueError(
            f"{model_dir} was trained with a vocabulary of {len(state.units)} tokens that differ from the "
            f"{len(fingerprint.units)} of this run; choose another --model_dir, or use the vocabulary of {model_dir}"
        )
    old, new, defaults = state.config_yaml, fingerprint.config_yaml, fingerprint.defaults_yaml
    changed = changed_settings(old, new, state.step, defaults)
    if changed:
        then, now = (_shown(changed, weight_settings(text, defaults)) for text in (old, new))
        raise ValueError(
            f"{model_dir} was trained with another configuration (then: {then}; now: {now}); choose another "
            f"--model_dir, or restore its configuration{_MAX_STEPS_HINT if _MAX_STEPS in changed else ''}"
        )
    check_same_origin(state.origin, fingerprint.origin, model_dir)
    changes = ""
    if state.train_hashes is not None:
        changes = _changes(state, state.train_hashes, fingerprint.train_contents)
    elif state.data_digest and state.data_digest != fingerprint.data_digest:  # the oldest versions kept no digest
        changes = f"{state.data_digest}; now {fingerprint.data_digest}"
    if changes:
        raise ValueError(
            f"{model_dir} was trained on other data ({changes}), so its run cannot resume; choose another --model_dir, "
            "or give the --train_data of that run, with all utterances usable"
            f"{_earlier_data_hint(state)}"
        )
    if _has_other_durations(state, fingerprint.train_contents):
        print(
            f"note: {model_dir} took durations from the audio, this version trusts those of the list, and they differ: "
            "batches differ from those of an uninterrupted run",
            file=sys.stderr,
        )
    if state.dev_hashes is not None:
        changes = _changes(state, state.dev_hashes, fingerprint.dev_contents)
        if changes:
            print(f"note: the dev list has changed ({changes}): earlier dev losses are not comparable", file=sys.stderr)


def check_ranks_agree(ranks: Ranks, fingerprint: RunFingerprint, step: int, model_dir: Path) -> None:
    """Check that configuration, vocabulary, data and step agree in all ranks. Every rank must call it.

    Raises:
        ValueError: they differ; if the steps differ, the message lists them.
    """
    run = fingerprint
    if len(set(ranks.all((run.config_yaml, run.units, run.bpe_model, run.data_digest)))) > 1:
        raise ValueError("configuration, vocabulary or training list differ between ranks: give the same to all")
    steps = ranks.all(step)
    if len(set(steps)) > 1:
        raise ValueError(
            f"the ranks' folders {model_dir} are at different steps ({', '.join(map(str, steps))}): every host must "
            "see the same --model_dir, on a shared file system"
        )


def _shown(names: list[str], settings: Mapping[str, Any]) -> str:
    known = [f"{name.rpartition('.')[2]}: {settings[name]}" for name in names if name in settings]
    return ", ".join(known[:3]) or "nothing"


def _earlier_data_hint(state: TrainingState) -> str:
    """Return hints for restoring the data of a run whose version had no filters, or kept only a digest of the data."""
    hint = "" if _has_filters(state.config_yaml) else _FILTERS_HINT
    return hint if state.trusts_durations or state.train_hashes is not None else hint + _DURATIONS_HINT


_FILTERS_HINT = (
    "; its version had no data.filters: if they leave utterances out now, set data.filters.longest_seconds=86400 "
    "data.filters.shortest_seconds=0 data.filters.longest_tokens=1000000 "
    "data.filters.most_characters_per_second=1000000, which keep all"
)
_DURATIONS_HINT = (
    "; its version took durations from the audio: if the list is the same, leave durations out of its lines"
)
_MAX_STEPS_HINT = (
    " (max_steps can change only with decay: inverse_sqrt, constant or wsd, and before the last decay_steps of wsd or "
    "frozen_statistics_steps begin. To train longer, start another run with --init_from)"
)
