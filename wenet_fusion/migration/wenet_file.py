"""Read WeNet's training YAML as a flat list of settings, with the names that WeNet's present version uses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from wenet_fusion.config.located_yaml import INVALID, ConfigError, Located, parse_yaml

# Keys that only WeNet's files have. `model` and `tokenizer` are left out, because our files have sections of that name.
_WENET_KEYS = frozenset(
    (
        "encoder encoder_conf decoder decoder_conf dataset dataset_conf collate_conf model_conf tokenizer_conf cmvn "
        "cmvn_conf ctc_conf optim optim_conf scheduler scheduler_conf max_epoch grad_clip accum_grad input_dim"
    ).split()
)
_WHOLE = ("tokenizer_conf.special_tokens", "encoder_conf.efficient_conf")  # sections that count as one setting

# Names in WeNet's first versions, and names that its train.py writes into the file -> present names.
_RENAMED = {
    "cmvn_file": "cmvn_conf.cmvn_file",
    "is_json_cmvn": "cmvn_conf.is_json_cmvn",
    "collate_conf.feature_extraction_conf.feature_type": "dataset_conf.feats_type",
    "collate_conf.feature_extraction_conf.mel_bins": "dataset_conf.fbank_conf.num_mel_bins",
    "collate_conf.feature_extraction_conf.frame_shift": "dataset_conf.fbank_conf.frame_shift",
    "collate_conf.feature_extraction_conf.frame_length": "dataset_conf.fbank_conf.frame_length",
    "collate_conf.wav_distortion_conf.wav_dither": "dataset_conf.fbank_conf.dither",
    **{
        f"dataset_conf.{name}": f"dataset_conf.filter_conf.{name}"
        for name in ("max_length", "min_length", "token_max_length", "token_min_length")
    },
    **{f"dataset_conf.{name}": f"dataset_conf.batch_conf.{name}" for name in ("batch_type", "batch_size")},
    "dataset_conf.max_frames_in_batch": "dataset_conf.batch_conf.max_frames_in_batch",
    "encoder_conf.encoder_dim": "encoder_conf.output_size",
}
# Sections that WeNet moved from collate_conf to dataset_conf.
_MOVED_SECTIONS = ("speed_perturb", "spec_aug", "spec_aug_conf", "spec_sub", "spec_sub_conf")


class WenetSetting(NamedTuple):
    """One setting of a file, or one of WeNet's defaults that the file does not change."""

    name: str  # dotted name in WeNet's present version
    written: str  # dotted name in the file
    value: Any
    where: str  # file and line; empty: a default


class WenetFile:
    """The settings of a WeNet training configuration.

    Args:
        settings: the settings in the order of the file.

    >>> file = WenetFile([WenetSetting("accum_grad", "accum_grad", 4, "train.yaml:9")])
    >>> file.get("accum_grad"), file.get("grad_clip", 50.0)
    (4, 50.0)
    """

    def __init__(self, settings: list[WenetSetting]) -> None:
        self.settings = settings
        self._values = {setting.name: setting.value for setting in settings}

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of a setting by its dotted name; `default` if the file lacks it."""
        return self._values.get(name, default)

    def with_defaults(self, defaults: Mapping[str, Any]) -> WenetFile:
        """Return a copy that also holds the defaults of settings that the file omits."""
        added = [WenetSetting(name, name, value, "") for name, value in defaults.items() if name not in self._values]
        return WenetFile([*self.settings, *added])


def read_wenet(path: Path) -> WenetFile | None:
    """Read a file; None if it has none of the keys that only WeNet's files have.

    Raises:
        ConfigError: the file is not YAML, or a key occurs twice.
        OSError: the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: the configuration is not UTF-8 text ({error})"]) from error
    problems: list[str] = []
    root = parse_yaml(text, str(path), lambda line: f"{path}:{line}", problems)
    if not isinstance(root.value, dict) or _WENET_KEYS.isdisjoint(root.value):
        return None
    settings = list(_settings(root, ""))
    if problems:
        raise ConfigError(problems)
    return WenetFile(settings)


def _settings(section: Located, prefix: str) -> Iterator[WenetSetting]:
    for key, located in section.value.items():
        written = f"{prefix}{key}"
        if isinstance(located.value, dict) and located.value and written not in _WHOLE:
            yield from _settings(located, f"{written}.")
        elif located.value is not INVALID:
            yield WenetSetting(_present_name(written), written, plain(located), located.where)


def _present_name(written: str) -> str:
    section, _, rest = written.partition(".")
    if section == "collate_conf" and rest.partition(".")[0] in _MOVED_SECTIONS:
        return f"dataset_conf.{rest}"
    return _RENAMED.get(written, written)


def plain(located: Located) -> Any:
    """Return a parsed value without its places in the file."""
    value = located.value
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value
