"""Rules for the sections of WeNet's configuration that describe data, features and augmentation."""

from __future__ import annotations

from typing import Any

from wenet_fusion.data.filters import Filters
from wenet_fusion.migration.rules import Context, Finding, Rule, always, none, number, same, whole

_FRAME_SHIFT = "dataset_conf.fbank_conf.frame_shift"


def seconds_of(frames: Any, context: Context) -> float:
    """Return the duration of feature frames.

    Raises:
        ValueError: `frames` or the frame shift is not a number.
    """
    return number(frames) * number(context.file.get(_FRAME_SHIFT, 10)) / 1000


def _speed(value: Any, context: Context) -> Finding:
    return Finding("same", (("data.augmentation.speed_factors", [0.9, 1.0, 1.1] if value else [1.0]),))


def _masks(key: str, counts: bool) -> Rule:
    """Return the rule for the number of masks (if `counts`) or for their width; without spec_aug, the number is 0."""

    def rule(value: Any, context: Context) -> Finding:
        if context.file.get("dataset_conf.spec_aug", True) is not True:
            return Finding("same", ((key, 0),) if counts else (), "spec_aug is false")
        if counts or key.endswith("bins"):
            return Finding("same", ((key, whole(value)),))
        return Finding("differs", ((key, whole(value)),), "at most a fifth of the utterance: max_time_fraction")

    return rule


def _spec_aug(value: Any, context: Context) -> Finding:
    if value:
        return Finding("same", (), "see spec_aug_conf")
    names = ("num_time_masks", "num_freq_masks")
    return Finding("same", tuple((f"data.spec_augment.{name}", 0) for name in names), "no masks")


def _switched(switch: str, key: str) -> Rule:
    """Return the rule for a setting that only matters if a switch is on."""

    def rule(value: Any, context: Context) -> Finding:
        on = context.file.get(f"dataset_conf.{switch}", False) is True
        return Finding("same", ((key, whole(value)),)) if on else Finding("same", (), f"{switch} is false")

    return rule


def _only_if_on(reason: str) -> Rule:
    return lambda value, context: Finding("none", (), reason) if value else Finding("same", (), "off, as here")


def _filter_seconds(key: str) -> Rule:
    """Return the rule for a duration, which WeNet's filter counts in hundredths of a second at any frame shift."""
    usual = getattr(Filters(), key)

    def rule(value: Any, context: Context) -> Finding:
        seconds = number(value) / 100
        remark = f"our default of {usual:g} s limits the memory" if key == _LONGEST and seconds > usual else "seconds"
        return Finding("same", ((f"data.filters.{key}", seconds),), remark)

    return rule


def _token_min_length(value: Any, context: Context) -> Finding:
    if not number(value):
        return Finding("same", (), "always so here")
    return Finding("none", (), "utterances without words are used: they teach the model to output nothing")


def _most_tokens(value: Any, context: Context) -> Finding:
    if context.file.get("tokenizer", "char") != "char" or context.file.get("tokenizer_conf.split_with_space") is True:
        return Finding("none", (), "our limit counts characters: data.filters.most_characters_per_second")
    setting = (("data.filters.most_characters_per_second", 100 * number(value)),)
    return Finding("same", setting, "characters per second")


def _shuffle_size(value: Any, context: Context) -> Finding:
    setting = (("data.sequential.shuffle_buffer", whole(value)),)
    return Finding("differs", setting, "for data_type: sequential, in all ranks; other lists are shuffled as a whole")


_LONGEST = "longest_seconds"
_SUBSTITUTION, _TRIM = "data.spec_augment.substitution", "data.spec_augment.trim"

DATA = {
    "dataset": always("asr", "our data sets are for speech recognition"),
    "raw_wav": always(True, "features are always computed from audio"),
    "dataset_conf.feats_type": always("fbank", "our features are log-mel filterbanks, as in Kaldi"),
    "dataset_conf.fbank_conf.num_mel_bins": same("model.frontend.num_mel_bins", whole),
    "dataset_conf.fbank_conf.frame_shift": same("model.frontend.hop_ms"),
    "dataset_conf.fbank_conf.frame_length": same("model.frontend.window_ms"),
    "dataset_conf.fbank_conf.dither": same("data.augmentation.dither"),
    "dataset_conf.resample_conf.resample_rate": same("model.frontend.sample_rate", whole),
    "dataset_conf.speed_perturb": _speed,
    "dataset_conf.filter_conf.max_length": _filter_seconds(_LONGEST),
    "dataset_conf.filter_conf.min_length": _filter_seconds("shortest_seconds"),
    "dataset_conf.filter_conf.token_max_length": same("data.filters.longest_tokens", whole),
    "dataset_conf.filter_conf.token_min_length": _token_min_length,
    "dataset_conf.filter_conf.min_output_input_ratio": none("long recordings with little text are used"),
    "dataset_conf.filter_conf.max_output_input_ratio": _most_tokens,
    "dataset_conf.spec_aug": _spec_aug,
    "dataset_conf.spec_aug_conf.num_t_mask": _masks("data.spec_augment.num_time_masks", True),
    "dataset_conf.spec_aug_conf.num_f_mask": _masks("data.spec_augment.num_freq_masks", True),
    "dataset_conf.spec_aug_conf.max_t": _masks("data.spec_augment.max_time_frames", False),
    "dataset_conf.spec_aug_conf.max_f": _masks("data.spec_augment.max_freq_bins", False),
    "dataset_conf.spec_aug_conf.max_w": none("no time warping here; WeNet has dropped it, too"),
    "dataset_conf.spec_aug_conf.warp_for_time": none("no time warping here; WeNet has dropped it, too"),
    "dataset_conf.spec_sub": lambda value, context: Finding("same", (), "see spec_sub_conf" if value else "off"),
    "dataset_conf.spec_sub_conf.num_t_sub": _switched("spec_sub", f"{_SUBSTITUTION}.num_spans"),
    "dataset_conf.spec_sub_conf.max_t": _switched("spec_sub", f"{_SUBSTITUTION}.max_frames"),
    "dataset_conf.spec_trim": lambda value, context: Finding("same", (), "see spec_trim_conf" if value else "off"),
    "dataset_conf.spec_trim_conf.max_t": _switched("spec_trim", f"{_TRIM}.max_frames"),
    "dataset_conf.shuffle": always(True, "training data are always shuffled"),
    "dataset_conf.shuffle_conf.shuffle_size": _shuffle_size,
    "dataset_conf.list_shuffle": none("not needed: the whole list is shuffled every epoch"),
    "dataset_conf.list_shuffle_conf.shuffle_size": none("not needed: the whole list is shuffled every epoch"),
    "dataset_conf.sort": always(True, "batches always hold utterances of similar length"),
    "dataset_conf.sort_conf.sort_size": none("not needed: utterances are sorted in pools of 50 batches"),
    "dataset_conf.cycle": none("not needed: training.max_steps counts updates, over any number of epochs"),
    "dataset_conf.batch_conf.pad_feat": always(True, "batches are padded"),
    "dataset_conf.mfcc_conf": none("no MFCC here"),
    "dataset_conf.log_mel_spectrogram_conf": none("no Whisper features here"),
    "collate_conf.feature_extraction_conf.using_pitch": always(False, "no pitch features"),
    "collate_conf.wav_distortion_conf.wav_distortion_rate": always((0, 0.0), "no distortion; see data.augmentation"),
    "collate_conf.wav_distortion_conf.distortion_methods": always(([], None), "no distortion; see data.augmentation"),
    "collate_conf.feature_dither": always((0, 0.0), "no noise on features"),
    "collate_conf.spec_swap": _only_if_on("no swapped masks here"),
}

# Sections without a counterpart: all keys of a section get its reason.
DATA_SECTIONS_WITHOUT = {
    "dataset_conf.mfcc_conf": "no MFCC here",
    "dataset_conf.log_mel_spectrogram_conf": "no Whisper features here",
    "dataset_conf.padding_conf": "not needed: batches are padded to their longest utterance",
}

DATA_DEFAULTS: dict[str, Any] = {
    "dataset_conf.fbank_conf.num_mel_bins": 80,
    "dataset_conf.resample_conf.resample_rate": 16000,
    "dataset_conf.speed_perturb": False,
    "dataset_conf.filter_conf.max_length": 10240,
    "dataset_conf.filter_conf.min_length": 10,
    "dataset_conf.filter_conf.token_max_length": 200,
    "dataset_conf.spec_aug": True,
    "dataset_conf.spec_aug_conf.num_t_mask": 2,
    "dataset_conf.spec_aug_conf.num_f_mask": 2,
    "dataset_conf.spec_aug_conf.max_t": 50,
    "dataset_conf.spec_aug_conf.max_f": 10,
    "dataset_conf.spec_sub_conf.num_t_sub": 3,
    "dataset_conf.spec_sub_conf.max_t": 20,
    "dataset_conf.spec_trim_conf.max_t": 20,
}
