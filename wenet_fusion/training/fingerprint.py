"""What makes two trainings the same run: configuration, units and training data. Knows no weights and no files."""

import re
from pathlib import Path
from typing import NamedTuple

from wenet_fusion.training.checkpoint import TrainingState

# Of the section `training`: how batches are loaded and what is kept on the way, which changes no weight.
NEUTRAL_SETTINGS = ("save_interval_steps", "validate_interval_steps", "keep_checkpoints", "num_workers")
_FROM_THE_END = re.compile(r"^    decay: linear$|^  frozen_statistics_steps: [1-9]", re.MULTILINE)


class RunFingerprint(NamedTuple):
    """What a checkpoint must carry to be rebuilt, and what a resumed run must agree with."""

    config_yaml: str
    units: tuple[str, ...]
    bpe_model: bytes
    seed: int
    data_digest: str  # of the training set


def weight_settings(config_yaml: str) -> str:
    """The lines of a configuration (as `to_yaml` writes it) that the weights of each step depend on.

    `max_steps` is one of them only where the schedule or the frozen statistics count back from the last step. How
    hypotheses are rescored is none.
    """
    config_yaml = re.sub(r"^  rescoring:\n(    .*\n)+", "", config_yaml, flags=re.MULTILINE)
    neutral = NEUTRAL_SETTINGS if _FROM_THE_END.search(config_yaml) else (*NEUTRAL_SETTINGS, "max_steps")
    return re.sub(rf"^  ({'|'.join(neutral)}): .*\n", "", config_yaml, flags=re.MULTILINE)


def check_same_run(state: TrainingState, fingerprint: RunFingerprint, model_dir: Path) -> None:
    """Raises ValueError, naming what differs and the remedy, if `state` of `model_dir` is of another run."""
    if state.units != fingerprint.units:
        raise ValueError(
            f"{model_dir} was trained with {len(state.units)} units that differ from the {len(fingerprint.units)} of this "
            f"run; choose another --model_dir or use the units it was trained with"
        )
    before, now = weight_settings(state.config_yaml), weight_settings(fingerprint.config_yaml)
    if before != now:
        raise ValueError(
            f"{model_dir} was trained with another configuration ({_changed_lines(before, now)}); "
            f"choose another --model_dir or restore it{_max_steps_hint(before, now)}"
        )
    if state.data_digest and state.data_digest != fingerprint.data_digest:  # earlier versions kept no digest
        raise ValueError(
            f"{model_dir} was trained on other data ({state.data_digest}; now {fingerprint.data_digest}), so its epochs "
            f"cannot go on; choose another --model_dir or give the --train_data it was trained on, all of it usable"
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
        " (max_steps can be changed later only with decay: inverse_sqrt and frozen_statistics_steps: 0, "
        "for else the steps so far depend on it)"
    )
