"""Noise files, rooms and channels: levels, bands, times, independent draws, and files that cannot be read."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from wenet_fusion.data.augmentation.additive_noise import NoiseFilesConfig, coloured_noise
from wenet_fusion.data.augmentation.channels import ClippingConfig, LowPassConfig, TelephoneConfig
from wenet_fusion.data.augmentation.rooms import RoomConfig
from wenet_fusion.data.augmentation.waveforms import Augmentation, WaveformAugmenter
from wenet_fusion.data.dataset import SpeechDataset
from wenet_fusion.data.judgement import FrontendGeometry
from wenet_fusion.data.sources import AudioSource, Utterance
from wenet_fusion.text.tokenizer import CharTokenizer
from wenet_fusion.text.vocabulary_file import Vocabulary

RATE = 16_000


def speech(seconds: float = 1.0, seed: int = 0) -> np.ndarray:
    """Return bursts of noise with a peak of 0.5."""
    rng = np.random.default_rng([9, seed])
    samples = rng.standard_normal(round(seconds * RATE)) * (np.arange(round(seconds * RATE)) // 1600 % 2)
    return (0.5 * samples / np.abs(samples).max(initial=1e-9)).astype(np.float32)


def draw(config: Augmentation, samples: np.ndarray, seed: int = 0, rate: int = RATE) -> np.ndarray:
    return WaveformAugmenter(config, rate).augment(samples, np.random.default_rng(seed))


def power(samples: np.ndarray) -> float:
    return float(np.square(samples, dtype=np.float64).mean())


def bands(samples: np.ndarray, rate: int = RATE) -> dict[str, float]:
    """Return the power below 200 Hz, inside a telephone's band, and above it."""
    spectrum, hertz = np.abs(np.fft.rfft(samples)) ** 2, np.fft.rfftfreq(samples.size, 1 / rate)
    edges = {"low": (0, 200), "middle": (500, 3000), "high": (3800, 8000)}
    return {name: float(spectrum[(low <= hertz) & (hertz < high)].sum()) for name, (low, high) in edges.items()}


def delay(changed: np.ndarray, samples: np.ndarray) -> int:
    """Return the delay of a waveform in samples."""
    size = 2 * samples.size
    product = np.fft.irfft(np.fft.rfft(changed, size) * np.fft.rfft(samples, size).conj(), size)
    place = int(product.argmax())
    return place if place < samples.size else place - size


def write_list(folder: Path, name: str, *waves: np.ndarray, rate: int = RATE) -> str:
    for number, wave in enumerate(waves):
        soundfile.write(folder / f"{name}{number}.wav", wave, rate, subtype="FLOAT")
    path = folder / f"{name}.list"
    path.write_text("\n".join(f"{name}{number}.wav" for number in range(len(waves))) + "\n")
    return str(path)


@pytest.fixture
def everything(tmp_path: Path) -> Augmentation:
    """All changes at once, in every utterance."""
    noises = write_list(tmp_path, "noise", 0.1 * speech(0.3, 1), 0.1 * speech(3, 2))
    return Augmentation(
        speed_factors=(0.9, 1.1),
        gain_db=(-6.0, 30.0),
        noise_probability=1.0,
        dither=1.0,
        room=RoomConfig(1.0),
        noise_files=NoiseFilesConfig(1.0, (noises,), (0.0, 10.0)),
        clipping=ClippingConfig(1.0),
        low_pass=LowPassConfig(1.0),
        telephone=TelephoneConfig(1.0),
    )


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
def test_all_together_stay_in_range_and_repeat(everything: Augmentation, rate: int) -> None:
    for seed in range(6):
        out = draw(everything, speech(), seed, rate)
        assert out.dtype == np.float32 and np.isfinite(out).all() and 0 < np.abs(out).max() <= 1
        assert np.array_equal(out, draw(everything, speech(), seed, rate))
    assert draw(everything, speech(0), 0, rate).size == 0
    assert draw(everything, speech()[:1], 0, rate).size == 1
    silent = dataclasses.replace(everything, dither=0.0, telephone=TelephoneConfig(1.0, ("pcm",)))
    assert not draw(silent, np.zeros(3000, np.float32), 0, rate).any(), "silence stays silence"


class Recorder:
    """A generator that keeps what it draws."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng, self.drawn = rng, []
        self.children: list[Recorder] = []

    def __getattr__(self, name: str) -> Callable:
        def draw_and_keep(*arguments: Any) -> Any:
            found = getattr(self._rng, name)(*arguments)
            self.drawn.append(np.asarray(found).tolist())
            return found

        return draw_and_keep

    def spawn(self, count: int) -> list["Recorder"]:
        self.children = [Recorder(child) for child in self._rng.spawn(count)]
        return self.children


@pytest.mark.parametrize("name", ["room", "noise_files", "clipping", "low_pass", "telephone", "dither"])
def test_one_change_leaves_the_draws_of_the_others(everything: Augmentation, name: str) -> None:
    drawn = []
    for config in (everything, dataclasses.replace(everything, **{name: getattr(Augmentation(), name)})):
        rng: Any = Recorder(np.random.default_rng(5))
        WaveformAugmenter(config, RATE).augment(speech(), rng)
        drawn.append([rng.drawn, *(child.drawn for child in rng.children)])
    changed = [number for number, (on, off) in enumerate(zip(*drawn)) if on != off]
    assert len(changed) <= 1 and 0 not in changed and len(drawn[0]) == 7


def test_earlier_changes_are_drawn_as_they_were() -> None:
    """A run of an earlier version continues with the same waveforms: it draws speed, gain and noise in this order."""
    config = Augmentation((0.9, 1.0, 1.1), (-6.0, 6.0), (5.0, 20.0), 0.5)
    for seed in range(6):
        rng = np.random.default_rng(seed)
        factor, gain, snr = config.speed_factors[rng.integers(3)], rng.uniform(-6, 6), rng.uniform(5, 20)
        noisy, pink = rng.random() < 0.5, rng.random() < 0.5
        expected = draw(Augmentation((factor,)), 0.1 * speech())
        if noisy:
            level = np.sqrt(power(expected) / 10 ** (snr / 10))
            expected = expected + coloured_noise(expected.size, pink, rng) * np.float32(level)
        assert np.array_equal(draw(config, 0.1 * speech(), seed), expected * np.float32(10 ** (gain / 20)))


def test_noise_files_have_the_asked_ratio_and_are_cut_or_repeated(tmp_path: Path) -> None:
    ramp = np.linspace(0.1, 0.9, 4 * RATE, dtype=np.float32)
    cut = Augmentation(noise_files=NoiseFilesConfig(1.0, (write_list(tmp_path, "long", ramp),), (10.0, 10.0)))
    starts = set()
    for seed in range(5):
        added = draw(cut, speech(), seed) - speech()
        assert 10 * np.log10(power(speech()) / power(added)) == pytest.approx(10, abs=0.1)
        assert (np.diff(added[10:-10]) > -1e-6).all(), "one piece of the file"
        starts.add(round(float(added[0] / (added[-1] - added[0])), 2))
    assert len(starts) == 5
    short = write_list(tmp_path, "short", ramp[:RATE:10], ramp[:RATE:10] * 0.5, rate=RATE)
    looped = Augmentation(noise_files=NoiseFilesConfig(1.0, (short,), (0.0, 0.0)))
    added = draw(looped, speech()) - speech()
    period = RATE // 10
    assert np.allclose(added[:-period], added[period:], atol=1e-5) and np.ptp(added) > 0
    some = dataclasses.replace(cut, noise_files=dataclasses.replace(cut.noise_files, probability=0.5))
    changed = [not np.array_equal(draw(some, speech(), seed), speech()) for seed in range(40)]
    assert 10 <= sum(changed) <= 30


def test_noise_of_another_rate_and_silent_noise(tmp_path: Path) -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(44_100) / 44_100).astype(np.float32) * 0.5
    config = NoiseFilesConfig(1.0, (write_list(tmp_path, "tone", tone, rate=44_100),), (0.0, 0.0))
    added = draw(Augmentation(noise_files=config), speech(0.5)) - speech(0.5)
    assert np.abs(np.fft.rfft(added)).argmax() * RATE / added.size == pytest.approx(1000, abs=3)
    silent = NoiseFilesConfig(1.0, (write_list(tmp_path, "silent", np.zeros(RATE, np.float32)),), (0.0, 0.0))
    assert np.array_equal(draw(Augmentation(noise_files=silent), speech()), speech())


@pytest.mark.parametrize("recorded", [True, False])
def test_rooms_add_reflections_without_delay(tmp_path: Path, recorded: bool) -> None:
    lists: tuple[str, ...] = ()
    if recorded:
        response = np.zeros(8000, np.float32)
        response[700], response[1500], response[3000] = -0.6, 0.3, 0.2
        response[660:700] = 0.01
        lists = (write_list(tmp_path, "room", response),)
    config = Augmentation(room=RoomConfig(1.0, lists, (0.3, 0.5), (3.0, 12.0)))
    silence = np.concatenate([speech(0.5), np.zeros(RATE // 2, np.float32)])
    outputs = [draw(config, silence, seed) for seed in range(4)]
    for out in outputs:
        assert out.size == silence.size and power(out) == pytest.approx(power(silence), rel=1e-3)
        assert delay(out * (-1 if recorded else 1), silence) == 0
        assert power(out[RATE // 2 : RATE // 2 + 2000]) > 1e-3 * power(silence), "reflections follow the speech"
    assert recorded or not np.array_equal(outputs[0], outputs[1]), "rooms differ"


def test_simulated_rooms_decay_and_keep_their_ratio() -> None:
    click = np.zeros(RATE, np.float32)
    click[100] = 0.5
    out = draw(Augmentation(room=RoomConfig(1.0, (), (0.5, 0.5), (0.0, 0.0))), click)
    out /= out[100]
    assert power(out[101:]) * (RATE - 101) == pytest.approx(1.0, rel=0.01), "0 dB: as much reflected as direct sound"
    early, late = (power(out[100 + at : 100 + at + 800]) for at in (800, 4800))
    assert 10 * np.log10(early / late) == pytest.approx(60 * 4000 / (0.5 * RATE), abs=2)
    assert np.abs(out[101:140]).max() < 1e-6 and np.abs(out[:100]).max() < 1e-6


def test_clipping_low_pass_and_dither() -> None:
    out = draw(Augmentation(clipping=ClippingConfig(1.0, (-6.0, -6.0))), speech())
    level = 0.5 * 10 ** (-6 / 20)
    assert np.abs(out).max() == pytest.approx(level) and (np.abs(out) > 0.999 * level).sum() > 10
    inside = np.abs(speech()) < level
    assert np.array_equal(out[inside], speech()[inside])
    out = draw(Augmentation(low_pass=LowPassConfig(1.0, (3400.0, 3400.0))), speech())
    before, after = bands(speech()), bands(out)
    assert after["high"] < 1e-3 * before["high"] and after["middle"] == pytest.approx(before["middle"], rel=0.02)
    assert after["low"] == pytest.approx(before["low"], rel=0.02) and delay(out, speech()) == 0
    out = draw(Augmentation(dither=2.0), speech())
    assert np.std(out - speech()) == pytest.approx(2 / 32768, rel=0.05)


@pytest.mark.parametrize("codec", ["pcm", "mulaw", "alaw", "gsm", "adpcm"])
@pytest.mark.parametrize("rate", [8000, 16_000])
def test_telephones_limit_the_band_without_delay(codec: str, rate: int) -> None:
    out = draw(Augmentation(telephone=TelephoneConfig(1.0, (codec,))), speech(), rate=rate)
    before, after = bands(speech(), rate), bands(out, rate)
    assert after["middle"] > 0.2 * before["middle"] and delay(out, speech()) == 0
    assert after["low"] < 0.3 * before["low"]
    assert rate == 8000 or after["high"] < 0.03 * before["high"]
    band = draw(Augmentation(telephone=TelephoneConfig(1.0, ("pcm",))), speech(), rate=rate)
    assert (codec == "pcm") == np.array_equal(out, band), "codecs leave their noise"


def test_missing_and_unreadable_files_are_named_at_start(tmp_path: Path) -> None:
    good = write_list(tmp_path, "noise", speech())
    (tmp_path / "text.wav").write_text("no audio")
    (tmp_path / "bad.list").write_text("noise0.wav\nkey text.wav\ngone.wav\n\n")
    (tmp_path / "empty.list").write_text("\n")
    for lists, parts in (
        ((good, "gone.list"), ["gone.list: there is no such list", "data.augmentation.noise_files.lists"]),
        ((str(tmp_path / "bad.list"),), ["bad.list:2: ", "text.wav", "bad.list:3: there is no audio file gone.wav"]),
        ((str(tmp_path / "empty.list"),), ["empty.list: lists no files"]),
    ):
        with pytest.raises((ValueError, OSError)) as caught:
            WaveformAugmenter(Augmentation(noise_files=NoiseFilesConfig(1.0, lists)), RATE)
        assert all(part in str(caught.value) for part in parts)
    with pytest.raises(ValueError, match="data.augmentation.room.lists"):
        WaveformAugmenter(Augmentation(room=RoomConfig(1.0, (str(tmp_path / "bad.list"),))), RATE)
    off = Augmentation(noise_files=NoiseFilesConfig(0.0, ("gone.list",)))
    assert np.array_equal(draw(off, speech()), speech()), "changes that are off need no files"


def test_a_noise_file_that_vanishes_ends_the_run_with_its_name(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "u.wav", speech(), RATE)
    noises = write_list(tmp_path, "noise", speech())
    dataset = SpeechDataset(
        [Utterance("u1", AudioSource(str(tmp_path / "u.wav")), "a", 0.0)],
        CharTokenizer(Vocabulary(("<blank>", "<unk>", "<sos/eos>", "a"), "words", "units.txt")),
        FrontendGeometry(RATE, 640, 0),
        Augmentation(noise_files=NoiseFilesConfig(1.0, (noises,))),
    )
    assert dataset.batch([0], epoch=0).keys == ("u1",)
    (tmp_path / "noise0.wav").unlink()
    with pytest.raises(OSError, match=r"noise0\.wav: no such audio file"):
        dataset.batch([0], epoch=0)
