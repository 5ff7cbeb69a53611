"""Stage 0 of the digits recipe: the strings that are made of single takes."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import make_strings
import numpy as np
import pytest
import soundfile
from recordings import WORDS, Take, list_takes, read_takes
from strings import WORDLESS, empty_string, plan_strings, speak
from toy_digits import RATE, SPEAKERS, write_checkout

from wenet_fusion.files import read_table

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
    """Its strings."""
    return make(corpus, tmp_path_factory.mktemp("strings") / "data")


def content(folder: Path) -> dict[str, str]:
    """Hashes of all wav files of a split, by name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (folder / "wav").iterdir()}


def read_words(folder: Path) -> list[tuple[str, int, int, str]]:
    """(key, first sample, number of samples, word) of each line of words.ctm."""
    fields = [line.split() for line in (folder / "words.ctm").read_text().splitlines()]
    return [(key, round(float(at) * RATE), round(float(long) * RATE), word) for key, _, at, long, word in fields]


def takes_used(folder: Path, corpus: Path) -> Counter[Take]:
    """How often each take occurs in a split."""
    samples, _ = read_takes(list_takes(corpus / "recordings"))
    by_length = {len(audio): take for take, audio in samples.items()}
    return Counter(by_length[length] for _, _, length, _ in read_words(folder))


def leaks(data: Path, corpus: Path) -> set[Take]:
    """Takes that occur in a split which is not theirs."""
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
    assert worst_agreement(shift=1) < 0.2  # one sample beside the truth is noticed


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
    """Noise is flat, tones and music are not; a voice is its takes played backwards, and not forwards."""
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
    plans = plan_strings(takes, 400, make_strings.MAX_DIGITS, np.random.default_rng(0))
    assert sum(len(plan.takes) for plan in plans) >= 1200


def test_takes_played_backwards_are_no_words() -> None:
    rng = np.random.default_rng(0)
    takes = [Take(digit, "theo", 10, Path()) for digit in range(10)]
    ramp = np.linspace(0.2, 1, RATE // 4, dtype=np.float32)
    samples = {take: rng.standard_normal(len(ramp)).astype(np.float32) * ramp for take in takes}
    (plan,) = plan_strings(takes, 1, 1, rng, backwards_share=1.0)
    before, spoken, after = plan.takes
    assert before.backwards and not spoken.backwards and after.backwards
    string = speak("a", plan, samples, RATE, rng)
    assert [word.text for word in string.words] == [WORDS[spoken.take.digit]]

    def place(sound: np.ndarray) -> int:
        products = np.correlate(string.samples, sound)
        return int(products.argmax()) if products.max() > 20 * np.median(np.abs(products)) else -1

    found = [place(samples[take][:: -1 if backwards else 1]) for take, backwards in plan.takes]
    assert 0 <= found[0] < found[1] == string.words[0].start < found[2]
    assert place(samples[before.take]) == -1  # forwards it is not there

    plans = plan_strings(takes, 300, 7, rng, backwards_share=0.12)
    kinds = Counter(backwards for plan in plans for _, backwards in plan.takes)
    assert kinds[False] == sum(np.arange(300) % 7 + 1)  # digits are as many as without
    assert 0.08 < kinds[True] / (kinds[False] + 300) < 0.16
    assert not any(backwards for plan in plan_strings(takes, 300, 7, rng) for _, backwards in plan.takes)


def test_only_training_strings_hold_takes_played_backwards(data: Path, corpus: Path, tmp_path: Path) -> None:
    without = make(corpus, tmp_path / "without", "--backwards_share", "0")
    assert content(data / "train") != content(without / "train")
    assert all(content(data / name) == content(without / name) for name in ("dev", "test", "silence"))
