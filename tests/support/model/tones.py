"""A language of three tones that a tiny model learns in seconds: its recordings, lists and configuration."""

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch
from wenet_fusion_runtime.audio.resampling import Resampler
from wenet_fusion_runtime.results.formats import ctm_lines
from wenet_fusion_runtime.results.result import Word

from wenet_fusion.config import to_yaml
from wenet_fusion.data.augmentation.feature_masks import SpecAugmentConfig
from wenet_fusion.data.augmentation.waveforms import Augmentation
from wenet_fusion.ranks import Placement
from wenet_fusion.recipe import RecipeConfig, build_trainer
from wenet_fusion.training.optimisation.optim import OptimConfig

RATE = 8000
HERTZ = {"one": 350.0, "two": 900.0, "three": 2200.0}


class Speech(NamedTuple):
    samples: np.ndarray  # (n,) float32 at RATE
    words: list[Word]  # with their times


def speak(words: list[str], rng: np.random.Generator) -> np.ndarray:
    """Return float32 samples (n,) at RATE: the words as tones with silence around them, and faint noise."""
    return speak_with_times(words, rng).samples


def write_speech(path: Path, words: list[str], rate: int) -> Path:
    """Write the samples of `speak` at another rate, such as a microphone's; return the path."""
    samples = Resampler(RATE, rate).process(speak(words, np.random.default_rng(3)), last=True)
    soundfile.write(path, samples, rate, subtype="PCM_16")
    return path


def speak_with_times(words: list[str], rng: np.random.Generator) -> Speech:
    """Return the samples of `speak` with the times of the words."""
    pieces, timed = [np.zeros(rng.integers(600, 1400))], []
    for word in words:
        time = np.arange(rng.integers(1000, 1600)) / RATE
        tone = np.sin(2 * np.pi * HERTZ[word] * rng.uniform(0.95, 1.05) * time)
        start = sum(map(len, pieces)) / RATE
        timed.append(Word(word, start, start + time.size / RATE, 1.0))
        pieces += [0.3 * np.hanning(time.size) * tone, np.zeros(rng.integers(600, 1400))]
    samples = np.concatenate(pieces)
    return Speech((samples + 0.003 * rng.standard_normal(samples.size)).astype(np.float32), timed)


def write_corpus(folder: Path, count: int, seed: int, longest: int = 4) -> Path:
    """Write `count` recordings of 1 to `longest` words, wav.scp, text, words.ctm and data.list; return the list."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    table = {f"u{n:03d}": rng.choice(list(HERTZ), rng.integers(1, longest + 1)).tolist() for n in range(count)}
    ctm = ""
    for key, words in table.items():
        speech = speak_with_times(words, rng)
        soundfile.write(folder / f"{key}.wav", speech.samples, RATE, subtype="PCM_16")
        ctm += ctm_lines(key, speech.words)
    (folder / "words.ctm").write_text(ctm)
    lines = [json.dumps({"key": key, "wav": f"{key}.wav", "txt": " ".join(words)}) for key, words in table.items()]
    (folder / "data.list").write_text("\n".join(lines) + "\n")
    (folder / "wav.scp").write_text("".join(f"{key} {folder / key}.wav\n" for key in table))
    (folder / "text").write_text("".join(f"{key} {' '.join(words)}\n" for key, words in table.items()))
    return folder / "data.list"


def tone_recipe(recipe: RecipeConfig) -> RecipeConfig:
    """Return a tiny recipe that learns tones in 100 steps, without random changes.

    Seed 1 is chosen: rounding changes the outputs of its model little on every processor. With seed 0, the outputs in
    int8 differ by 0.3 to 0.5.
    """
    model = replace(
        recipe.model,
        encoder=replace(recipe.model.encoder, dim=32, feed_forward=64, subsampling_channels=8, dropout=0.0),
        decoder=replace(recipe.model.decoder, dropout=0.0),
        loss=replace(recipe.model.loss, ctc_weight=0.5),
    )
    data = replace(recipe.data, spec_augment=SpecAugmentConfig(0, 0, 0, 0))
    optim = OptimConfig(learning_rate=0.005, warmup_steps=20, decay="linear")
    training = replace(recipe.training, max_steps=100, max_batch_seconds=10.0, validate_interval_steps=25, optim=optim)
    return replace(recipe, data=data, model=model, training=training, seed=1)


class ToneRun(NamedTuple):
    """A finished training run, its recipe and its lists."""

    recipe: RecipeConfig
    config: Path  # YAML of the recipe
    train_list: Path
    dev_list: Path
    model_dir: Path

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint."""
        return max(self.model_dir.glob("step_*.pt"))


def train_tones(recipe: RecipeConfig, folder: Path) -> ToneRun:
    """Make 100 recordings in `folder` and train `recipe` on them."""
    run = ToneRun(
        recipe,
        folder / "config.yaml",
        write_corpus(folder / "train", 100, seed=0),
        write_corpus(folder / "dev", 30, seed=1),
        folder / "exp",
    )
    run.config.write_text(to_yaml(recipe))
    run.model_dir.mkdir()
    build_trainer(recipe, run.train_list, run.dev_list, run.model_dir, Placement(torch.device("cpu"))).run()
    return run


def lively(recipe: RecipeConfig) -> RecipeConfig:
    """Return the recipe with all random parts of training on: dropout, SpecAugment, speed, noise and gain."""
    model = replace(
        recipe.model,
        encoder=replace(recipe.model.encoder, dropout=0.1),
        decoder=replace(recipe.model.decoder, dropout=0.1),
    )
    augmentation = Augmentation((0.9, 1.0, 1.1), (-6.0, 6.0), (10.0, 30.0), 0.5)
    data = replace(recipe.data, augmentation=augmentation, spec_augment=SpecAugmentConfig(2, 10, 2, 6, 0.2))
    return replace(recipe, model=model, data=data)
