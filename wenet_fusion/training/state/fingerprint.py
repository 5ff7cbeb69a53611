"""Check whether a training state belongs to the run that resumes it."""

import re
import sys
from pathlib import Path
from typing import NamedTuple

from wenet_fusion.data.lists.contents import DataContents, describe_changes
from wenet_fusion.ranks import Ranks
from wenet_fusion.training.state.checkpoint import TrainingState

# Settings of the section `training` that change no weight: loading of batches, and what is saved when.
NEUTRAL_SETTINGS = ("save_interval_steps", "validate_interval_steps", "keep_checkpoints", "num_workers")
# Their effect is compared token by token; earlier versions lacked the setting and spelled special tokens.
_COMPARED_BY_TOKENS = re.compile(r"^  special_tokens: (?:refuse|spell)\n", re.MULTILINE)
# Settings that a resumed run may change where memory runs out; its epoch starts again, with other batches.
BATCH_SETTINGS = ("max_batch_seconds", "max_batch_rows", "accumulate")
_COUNTS_FROM_THE_END = re.compile(r"^    decay: linear$|^  frozen_statistics_steps: [1-9]", re.MULTILINE)


class RunFingerprint(NamedTuple):
    """The configuration, vocabulary and data of a run: a checkpoint is rebuilt from them, and a resumed run must
    agree with them.
    """

    config_yaml: str
    units: tuple[str, ...]  # the vocabulary's tokens
    bpe_model: bytes
    seed: int
    data_digest: str  # of the training set, see `SpeechDataset.digest`
    train_contents: DataContents
    dev_contents: DataContents


def weight_settings(config_yaml: str) -> str:
    """Return the lines of a configuration that the weights of each step depend on.

    `max_steps` belongs to them only if the schedule or the frozen statistics count back from the last step. The weights
    of rescoring never do, and the size of the batches may change where memory runs out.

    Args:
        config_yaml: a configuration as `to_yaml` writes it.
    """
    config_yaml = _COMPARED_BY_TOKENS.sub("", config_yaml)
    config_yaml = re.sub(r"^  rescoring:\n(    .*\n)+", "", config_yaml, flags=re.MULTILINE)
    neutral = [*NEUTRAL_SETTINGS, *BATCH_SETTINGS]
    if not _COUNTS_FROM_THE_END.search(config_yaml):
        neutral.append("max_steps")
    return re.sub(rf"^  ({'|'.join(neutral)}): .*\n", "", config_yaml, flags=re.MULTILINE)


def has_same_batches(state: TrainingState, fingerprint: RunFingerprint) -> bool:
    """Return whether the batches of an epoch are those of the state, so that a run can go on within it."""
    pattern = re.compile(rf"^  (?:{'|'.join(BATCH_SETTINGS)}): .*$", re.MULTILINE)
    return pattern.findall(state.config_yaml) == pattern.findall(fingerprint.config_yaml)


def check_same_run(state: TrainingState, fingerprint: RunFingerprint, model_dir: Path) -> None:
    """Check that the training state of `model_dir` belongs to the run of `fingerprint`.

    Another dev list changes no weight: it is allowed, with a note that losses before and after do not compare.

    Raises:
        ValueError: it belongs to another run; names what differs and the remedy.
    """
    if state.units != fingerprint.units:
        raise ValueError(
            f"{model_dir} was trained with a vocabulary of {len(state.units)} tokens that differ from the "
            f"{len(fingerprint.units)} of this run; choose another --model_dir or use its own vocabulary"
        )
    before, now = weight_settings(state.config_yaml), weight_settings(fingerprint.config_yaml)
    if before != now:
        raise ValueError(
            f"{model_dir} was trained with another configuration ({_changed_lines(before, now)}); "
            f"choose another --model_dir or restore it{_max_steps_hint(before, now)}"
        )
    changes = ""
    if state.train_hashes is not None:
        changes = describe_changes(state.train_hashes, fingerprint.train_contents)
    elif state.data_digest and state.data_digest != fingerprint.data_digest:  # the oldest versions kept no digest
        changes = f"{state.data_digest}; now {fingerprint.data_digest}"
    if changes:
        raise ValueError(
            f"{model_dir} was trained on other data ({changes}), so its "
            "epochs cannot go on; choose another --model_dir or give its own --train_data, all of it usable"
        )
    if state.dev_hashes is not None:
        changes = describe_changes(state.dev_hashes, fingerprint.dev_contents)
        if changes:
            print(f"note: the dev list is another ({changes}): earlier dev losses do not compare", file=sys.stderr)


def check_ranks_agree(ranks: Ranks, fingerprint: RunFingerprint, step: int, model_dir: Path) -> None:
    """Check that all ranks train the same. Every rank calls it.

    Raises:
        ValueError: they do not; names what differs.
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


def _changed_lines(old: str, new: str) -> str:
    before, after = set(old.splitlines()), set(new.splitlines())
    removed = [line.strip() for line in old.splitlines() if line not in after]
    added = [line.strip() for line in new.splitlines() if line not in before]
    return f"then: {', '.join(removed[:3]) or 'nothing'}; now: {', '.join(added[:3]) or 'nothing'}"


def _max_steps_hint(old: str, new: str) -> str:
    pattern = re.compile(r"^  max_steps: (.*)$", re.MULTILINE)
    if pattern.findall(old) == pattern.findall(new):
        return ""
    return (
        " (max_steps can be changed later only with decay: inverse_sqrt and frozen_statistics_steps: 0; "
        "otherwise the steps so far depend on it)"
    )
