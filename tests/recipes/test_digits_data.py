"""Stage 0 of the digits recipe: digit strings from single takes."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import make_strings
import numpy as np
import pytest
import soundfile
from recordings import WORDS, Take, list_takes, read_takes
from strings import (
    WORDLESS,
    DigitString,
    PlannedTake,
    SpokenWord,
    StringPlan,
    empty_string,
    plan_strings,
    speak,
)
from support.recipes.toy_digits import RATE, SPEAKERS, write_checkout

from wenet_fusion.data.lists.kaldi import read_table

SIZES = ["--train", "60", "--dev", "14", "--test", "70", "--silence", "8"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of a tiny corpus."""
    return write_checkout(tmp_path_factory.mktemp("corpus"))


def make(corpus: Path, output: Path, *options: str) -> Path:
    """Runs stage 0 on `corpus`."""
    output.mkdir()
    source = output / "source.json"
    source.write_text(json.dumps({"recordings": str(corpus / "recordings")}))
    assert make_strings.main(["--source", str(source), "--output", str(output), *SIZES, *options]) == 0
    return output


@pytest.fixture(scope="module")
def data(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digit strings made from the tiny corpus."""
    return make(corpus, tmp_path_factory.mktemp("strings") / "data")


def content(folder: Path) -> dict[str, str]:
    """Hashes of all wav files of a split, by name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (folder / "wav").iterdir()}


def read_words(folder: Path) -> list[tuple[str, int, int, str]]:
    """(key, first sample, number of samples, word) of each line of words.ctm."""
    fields = [line.split() for line in (folder / "words.ctm").read_text().splitlines()]
    return [(key, round(float(at) * RATE), round(float(long) * RATE), word) for key, _, at, long, word in fields]


def takes_used(folder: Path, corpus: Path) -> Counter[Take]:
    """Count how often each take occurs in a split."""
    samples, _ = read_takes(list_takes(corpus / "recordings"))
    by_length = {len(audio): take for take, audio in samples.items()}
    return Counter(by_length[length] for _, _, length, _ in read_words(folder))


def leaks(data: Path, corpus: Path) -> set[Take]:
    """Return the takes that occur in another split than their own."""
    used = {name: takes_used(data / name, corpus) for name in ("train", "dev", "test")}
    return {take for name, takes in used.items() for take in takes if take.split != name}


def test_no_take_is_in_two_splits(data: Path, corpus: Path) -> None:
    assert not leaks(data, corpus)


def test_a_take_in_the_wrong_split_is_noticed(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rightful = Take.split
    with monkeypatch.context() as seeded_bug:
        seeded_bug.setattr(Take, "split", property(lambda take: "train" if take.index == 4 else rightful.fget(take)))
        broken = make(corpus, tmp_path / "data")
    assert {take.index for take in leaks(broken, corpus)} == {4}


def test_official_split() -> None:
    splits = [Take(7, "theo", index, Path()).split for index in range(50)]
    assert splits == ["test"] * 5 + ["dev"] * 5 + ["train"] * 40


def test_same_seed_same_bytes_and_only_training_depends_on_it(data: Path, corpus: Path, tmp_path: Path) -> None:
    again = make(corpus, tmp_path / "again")
    other = make(corpus, tmp_path / "other", "--seed", "1")
    for name in ("train", "dev", "test", "silence"):
        assert content(data / name) == content(again / name)
        assert (content(data / name) == content(other / name)) == (name != "train")


def test_words_lie_where_the_ctm_says(data: Path, corpus: Path) -> None:
    samples, _ = read_takes(list_takes(corpus / "recordings"))
    by_length = {len(audio): (take, audio) for take, audio in samples.items()}

    def worst_agreement(shift: int) -> float:
        agreements = []
        for key, start, length, word in read_words(data / "test"):
            take, audio = by_length[length]
            assert WORDS[take.digit] == word and key.startswith(take.speaker)
            string, _ = soundfile.read(data / "test" / "wav" / f"{key}.wav")
            part = string[start + shift : start + shift + length]
            agreements.append(np.dot(part, audio[: len(part)]) / np.linalg.norm(part) / np.linalg.norm(audio))
        return min(agreements)

    assert worst_agreement(shift=0) > 0.9
    assert worst_agreement(shift=1) < 0.2  # an error of one sample is noticed


def test_transcripts_paths_and_speakers_agree(data: Path) -> None:
    for name in ("train", "dev", "test", "silence"):
        texts, paths, speakers = (read_table(data / name / file) for file in ("text", "wav.scp", "utt2spk"))
        assert list(texts) == list(paths) == list(speakers) == sorted(texts)
        spoken = {key: [] for key in texts}
        for key, _, _, word in read_words(data / name):
            spoken[key].append(word)
        assert {key: text.split() for key, text in texts.items()} == spoken
        assert all(len(words) <= 7 for words in spoken.values())
        for path in paths.values():
            header = soundfile.info(path)
            assert Path(path).is_absolute() and (header.samplerate, header.channels) == (RATE, 1)


def test_recordings_without_a_word(data: Path) -> None:
    lines = (data / "train" / "text").read_text().splitlines()
    assert sum(len(line.split()) == 1 for line in lines) == 10  # 16 % of 60
    assert all(line == line.strip() for line in lines)
    assert set(read_table(data / "silence" / "text").values()) == {""}
    peaks = [np.abs(soundfile.read(path)[0]).max() for path in (data / "silence" / "wav").iterdir()]
    assert len(peaks) == 8 and min(peaks) == 0 and max(peaks) > 0.01


def test_kinds_of_recordings_without_a_word() -> None:
    """Noise has a flat spectrum, tones and music do not; a voice is made of takes played backwards only."""
    rng = np.random.default_rng(0)
    take = Take(0, "theo", 10, Path())
    voice = rng.standard_normal(RATE // 4).astype(np.float32) * np.linspace(0.2, 1, RATE // 4, dtype=np.float32)

    def sounds(kind: str) -> list[np.ndarray]:
        indices = [index for index in range(120) if WORDLESS[index % len(WORDLESS)] == kind]
        return [empty_string("x", i, [take], {take: voice}, RATE, rng, 2.0).samples for i in indices]

    def flatness(audio: np.ndarray) -> float:
        power = np.square(np.abs(np.fft.rfft(audio))) + 1e-12
        return np.exp(np.mean(np.log(power))) / np.mean(power)

    def alike(audio: np.ndarray, shape: np.ndarray) -> float:
        return np.correlate(audio, shape).max() / np.linalg.norm(audio) / np.linalg.norm(shape)

    assert sum(not audio.any() for audio in sounds("silence")) == 5
    assert max(flatness(audio) for audio in sounds("noise")) > 0.5  # half of it is white
    assert max(np.median([flatness(audio) for audio in sounds(kind)]) for kind in ("tones", "music")) < 0.05
    for kind in ("voice", "voices"):
        backwards = np.median([alike(audio, voice[::-1]) for audio in sounds(kind)])
        assert backwards > 2 * np.median([alike(audio, voice) for audio in sounds(kind)])


def test_some_pauses_are_digital_zero_and_most_are_not(data: Path) -> None:
    zeros = [np.mean(soundfile.read(path)[0] == 0) > 0.05 for path in (data / "test" / "wav").iterdir()]
    assert 0.05 < np.mean(zeros) < 0.6


def test_test_takes_are_used_about_equally_often(data: Path, corpus: Path) -> None:
    used = takes_used(data / "test", corpus)
    assert len(used) == 100
    for speaker in SPEAKERS:
        counts = [count for take, count in used.items() if take.speaker == speaker]
        assert max(counts) - min(counts) <= 1


def test_standard_test_set_has_1200_words() -> None:
    takes = [Take(digit, speaker, index, Path()) for speaker in "abcde" for digit in range(10) for index in range(5)]
    plans = plan_strings(takes, 400, 7, np.random.default_rng(0))
    assert sum(len(plan.takes) for plan in plans) >= 1200


def test_takes_played_backwards_are_no_words() -> None:
    rng = np.random.default_rng(0)
    takes = [Take(digit, "theo", 10, Path()) for digit in range(3)]
    ramp = np.linspace(0.2, 1, RATE // 4, dtype=np.float32)
    samples = {take: rng.standard_normal(len(ramp)).astype(np.float32) * ramp for take in takes}
    plan = StringPlan("theo", [PlannedTake(take, backwards=take.digit != 1) for take in takes])

    def places(sound: np.ndarray, string: DigitString) -> list[int]:
        windows = np.lib.stride_tricks.sliding_window_view(string.samples, len(sound))
        norms = np.linalg.norm(windows, axis=1) * np.linalg.norm(sound)
        return np.flatnonzero(windows @ sound > 0.9 * norms + 1e-9).tolist()

    pauses = []
    for number in range(20):
        string = speak("a", plan, samples, RATE, np.random.default_rng(number))
        ((before,), (spoken,), (after,)) = (
            places(samples[take][:: -1 if backwards else 1], string) for take, backwards in plan.takes
        )
        assert string.words == [SpokenWord("ONE", spoken, len(ramp))]
        assert before < spoken < after
        assert not places(samples[takes[0]], string) and not places(
            samples[takes[2]], string
        )  # they do not occur forwards
        pauses += [spoken - before - len(ramp), after - spoken - len(ramp)]
    assert min(pauses) >= 0 and np.mean(np.array(pauses) > 0.05 * RATE) > 0.5


def test_level_does_not_depend_on_what_is_a_word() -> None:
    takes = [Take(digit, "theo", 10, Path()) for digit in range(4)]
    samples = dict.fromkeys(takes, np.sin(np.arange(RATE // 2, dtype=np.float32)))

    def power(backwards: bool) -> float:
        plan = StringPlan("theo", [PlannedTake(take, backwards and take.digit > 0) for take in takes])
        return float(np.square(speak("a", plan, samples, RATE, np.random.default_rng(3)).samples).sum())

    assert power(True) == pytest.approx(power(False), rel=0.02)


def test_plan_of_takes_played_backwards() -> None:
    takes = [Take(digit, speaker, 10, Path()) for digit in range(10) for speaker in ("lucas", "theo")]
    plans = plan_strings(takes, 300, 7, np.random.default_rng(0), backwards_share=0.12)
    kinds = Counter(backwards for plan in plans for _, backwards in plan.takes)
    assert 0.08 < kinds[True] / (kinds[False] + len(plans)) < 0.16
    assert all(take.speaker == plan.speaker for plan in plans for take, _ in plan.takes)
    places = Counter(
        "first" if number == 0 else "last" if number == len(plan.takes) - 1 else "between"
        for plan in plans
        for number, (_, backwards) in enumerate(plan.takes)
        if backwards
    )
    assert min(places[name] for name in ("first", "between", "last")) > 10
    without = plan_strings(takes, 300, 7, np.random.default_rng(0))
    digits = [[take for take, backwards in plan.takes if not backwards] for plan in plans]
    assert digits == [[take for take, _ in plan.takes] for plan in without]


def test_babble_pauses_and_has_mostly_a_noise_floor() -> None:
    rng = np.random.default_rng(0)
    takes = [Take(digit, "theo", 10, Path()) for digit in range(10)]
    samples = {take: rng.standard_normal(RATE // 4).astype(np.float32) for take in takes}
    index = WORDLESS.index("voices")
    sounds = [
        empty_string("x", index, takes, samples, RATE, np.random.default_rng(number), 6.0).samples
        for number in range(60)
    ]
    parts = [part for sound in sounds for part in np.array_split(sound, max(1, len(sound) // (RATE // 10)))]
    silent = np.mean([np.sqrt(np.mean(np.square(part))) < 1e-4 for part in parts])
    assert 0.005 < silent < 0.2
    floors = [np.mean(sound == 0) < 0.001 for sound in sounds if len(sound) > RATE]
    assert 0.6 < np.mean(floors) < 1.0


@pytest.mark.parametrize("option", ["--empty_share", "--backwards_share"])
@pytest.mark.parametrize("value", ["-0.1", "1", "nan"])
def test_impossible_shares(corpus: Path, tmp_path: Path, option: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{option} {value}: a share is from 0 to less than 1"):
        make(corpus, tmp_path / "data", option, value)


def test_only_training_strings_hold_takes_played_backwards(data: Path, corpus: Path, tmp_path: Path) -> None:
    without = make(corpus, tmp_path / "without", "--backwards_share", "0")
    assert content(data / "train") != content(without / "train")
    assert read_table(data / "train" / "text") == read_table(without / "train" / "text")
    assert all(content(data / name) == content(without / name) for name in ("dev", "test", "silence"))
