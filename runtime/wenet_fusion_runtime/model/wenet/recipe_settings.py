"""Read a recipe's train.yaml: features, weights, chunks and the vocabulary's path, which the exported model lacks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from wenet_fusion_runtime.console import unusable_package
from wenet_fusion_runtime.model.wenet.kaldi_features import FeatureSettings

FBANK = "fbank"


class RecipeSettings(NamedTuple):
    """The settings of a training that are not in its exported model.

    >>> RecipeSettings().features.bins, RecipeSettings().reverse_weight is None
    (80, True)
    """

    features: FeatureSettings = FeatureSettings()
    reverse_weight: float | None = None  # of the right-to-left decoder
    static_chunk: int = 0  # frames of the only chunk size in training; 0: the model was trained with several
    vocabulary: str | None = None  # its path, as the recipe names it


def read_recipe(path: Path) -> RecipeSettings:
    """Read a train.yaml of WeNet.

    Raises:
        ImportError: PyYAML is not installed.
        OSError: the file cannot be read.
        ValueError: the file is not a train.yaml, or its model does not stream or does not read filter banks.
    """
    yaml = _import_yaml()
    try:
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: is no YAML ({reason}); copy it again, or leave it out") from None
    if not isinstance(record, Mapping):
        raise ValueError(f"{path}: is no configuration of a WeNet recipe; leave it out")
    data = _section(record, "dataset_conf", path)
    encoder, model = _section(record, "encoder_conf", path), _section(record, "model_conf", path)
    kind = data.get("feats_type", FBANK)
    if kind != FBANK:
        raise ValueError(f"{path}: the model reads {kind} features; this runtime computes {FBANK} only")
    static = int(_number(encoder, "static_chunk_size", 0, path, -1))
    if encoder and not encoder.get("use_dynamic_chunk") and static < 1:
        raise ValueError(
            f"{path}: the model was trained on whole recordings (without use_dynamic_chunk), so it cannot be streamed; "
            "train it with use_dynamic_chunk: true"
        )
    fbank, resample = _section(data, "fbank_conf", path), _section(data, "resample_conf", path)
    defaults = FeatureSettings()
    features = FeatureSettings(
        int(_number(resample, "resample_rate", defaults.sample_rate, path, 1000)),
        int(_number(fbank, "num_mel_bins", defaults.bins, path, 1)),
        _number(fbank, "frame_length", defaults.window_ms, path, 1),
        _number(fbank, "frame_shift", defaults.shift_ms, path, 1),
    )
    has_weight = "reverse_weight" in model
    vocabulary = _section(record, "tokenizer_conf", path).get("symbol_table_path")
    return RecipeSettings(
        features,
        min(_number(model, "reverse_weight", 0.0, path, 0), 1.0) if has_weight else None,
        max(static, 0),
        vocabulary if isinstance(vocabulary, str) else None,
    )


def _section(record: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    found = record.get(name)
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise ValueError(f"{path}: {name} must hold settings, found '{found}'")
    return found


def _number(section: Mapping[str, Any], name: str, default: float, path: Path, least: float) -> float:
    found = section.get(name, default)
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not least <= found <= 1e6:
        raise ValueError(f"{path}: {name} must be a number of at least {least:g}, found '{found}'")
    return found


def _import_yaml() -> Any:
    try:
        import yaml
    except (ImportError, OSError, MemoryError, RuntimeError) as error:
        missing = "train.yaml is read with PyYAML, which is not installed: pip install 'wenet-fusion-runtime[wenet]'"
        raise unusable_package("yaml", missing, error) from error
    return yaml
