"""The speech of the commands recipe: made once, judged utterance by utterance, and divided by speaker."""

from collections.abc import Sequence
from pathlib import Path

import check_speech
import divide_corpora
import make_sounds
import numpy as np
import pytest
import soundfile
import speak_texts
import transcribe_reference
from check_speech import Whisper, errors_of, letters_of, windows
from folders import read_folder
from rapidfuzz.distance import Levenshtein
from synthesizers import Spoken, open_synthesizer

from wenet_fusion.data.lists.kaldi import read_table

TEXTS = ["words\tSTOP", "digits\tONE TWO", "foreign-es\tabre la puerta", "commands\tTURN IT OFF", "letters\tA B"]


class Beeper:
    """A synthesizer that speaks 0.2 s per letter, at 8 kHz. It fails after `fails_after` utterances."""

    def __init__(self, fails_after: int = 1000) -> None:
        self.calls: list[tuple[str, str]] = []
        self._fails_after = fails_after

    def speak(self, text: str, language: str, rng: np.random.Generator) -> Spoken:
        if len(self.calls) == self._fails_after:
            raise OSError("the synthesizer died")
        self.calls.append((text, language))
        return Spoken(rng.uniform(-1, 1, 1600 * len(text)).astype(np.float32), 8000, f"voice{rng.integers(9)}")


def write_texts(folder: Path) -> Path:
    (folder / "texts.tsv").write_text("".join(line + "\n" for line in TEXTS))
    return folder / "texts.tsv"


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes().replace(str(folder.absolute()).encode(), b"")
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_an_interrupted_run_goes_on_to_the_same_files(tmp_path: Path) -> None:
    texts = write_texts(tmp_path)
    whole, parts = tmp_path / "whole" / "set", tmp_path / "parts" / "set"
    seconds = speak_texts.speak_all(Beeper(), texts, 7, 0, whole)
    with pytest.raises(OSError, match="died"):
        speak_texts.speak_all(Beeper(fails_after=3), texts, 7, 0, parts)
    rest = Beeper()
    assert speak_texts.speak_all(rest, texts, 7, 0, parts) == pytest.approx(seconds)
    assert len(rest.calls) == 2 and content(whole) == content(parts)
    durations = [soundfile.info(path).duration for path in read_table(whole / "wav.scp").values()]
    assert seconds == pytest.approx(sum(durations), abs=0.01)
    assert all(soundfile.info(path).samplerate == 16000 for path in read_table(whole / "wav.scp").values())


def test_only_changed_texts_are_spoken_again(tmp_path: Path) -> None:
    texts, output = write_texts(tmp_path), tmp_path / "set"
    speak_texts.speak_all(Beeper(), texts, 7, 0, output)
    for number in range(5):
        (output / "audio" / "000" / f"{number:06d}.whisper").write_text("0.000 \n")
    texts.write_text(texts.read_text().replace("ONE TWO", "ONE TWO THREE").replace("abre", "cierra"))
    again = Beeper()
    speak_texts.speak_all(again, texts, 7, 0, output)
    assert [text.rstrip(".").replace(",", "") for text, _ in again.calls] == ["one two three", "cierra la puerta"]
    judged = sorted(path.stem for path in output.rglob("*.whisper"))
    assert judged == ["000000", "000003", "000004"]  # the verdict on the earlier audio is gone
    fresh = tmp_path / "fresh" / "set"
    speak_texts.speak_all(Beeper(), texts, 7, 0, fresh)
    for path in output.rglob("*.whisper"):
        path.unlink()
    whole, changed = content(fresh), content(output)
    assert whole == changed
    (output / "audio" / "000" / "000000.voice").write_text("voice1 1.5\n")  # as earlier versions wrote it
    assert speak_texts.speak_all(Beeper(fails_after=0), texts, 7, 0, output) > 1.5


def test_failures_name_the_text(tmp_path: Path) -> None:
    class Mute(Beeper):
        def speak(self, text: str, language: str, rng: np.random.Generator) -> Spoken:
            return Spoken(np.zeros(800, np.float32), 8000, "mute")

    with pytest.raises(ValueError, match=r"texts.tsv:1: the synthesizer returned silence; change or remove 'STOP'"):
        speak_texts.speak_all(Mute(), write_texts(tmp_path), 0, 0, tmp_path / "set")


def test_foreign_speech_has_no_transcript(tmp_path: Path) -> None:
    beeper = Beeper()
    speak_texts.speak_all(beeper, write_texts(tmp_path), 0, 0, tmp_path / "set")
    assert beeper.calls[2] == ("abre la puerta", "es") and beeper.calls[3][1] == "en"
    assert list(read_table(tmp_path / "set" / "text").values()) == ["STOP", "ONE TWO", "", "TURN IT OFF", "A B"]


def test_speech_ends_at_the_limit(tmp_path: Path) -> None:
    texts = write_texts(tmp_path)
    seconds = speak_texts.speak_all(Beeper(), texts, 0, 2.0, tmp_path / "set")
    durations = [soundfile.info(path).duration for path in read_table(tmp_path / "set" / "wav.scp").values()]
    assert sum(durations[:-1]) < 2.0 <= seconds


def test_missing_commands_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name, command in (("flite", "flite"), ("festival", "text2wave")):
        with pytest.raises(OSError, match=f"{command} is missing; run: apt-get install {name}"):
            open_synthesizer(name)


def test_wrong_input_is_refused(tmp_path: Path) -> None:
    (tmp_path / "texts.tsv").write_text("words\tA\nno kind\n")
    with pytest.raises(ValueError, match=r'texts.tsv:2: is not "KIND<tab>TRANSCRIPT"'):
        list(speak_texts.utterances(tmp_path / "texts.tsv"))
    (tmp_path / "texts.tsv").write_text("words\t \n")
    with pytest.raises(ValueError, match=r'texts.tsv:1: is not "KIND<tab>TRANSCRIPT"'):
        list(speak_texts.utterances(tmp_path / "texts.tsv"))
    with pytest.raises(ValueError, match="returned silence"):
        speak_texts.with_pauses(np.zeros(100, np.float32), np.random.default_rng(0))
    with pytest.raises(ValueError, match="there is no synthesizer 'hal'; give hibari, kokoro, flite or festival"):
        open_synthesizer("hal")
    with pytest.raises(OSError, match=r"holds no kokoro.onnx; name the folder with --kokoro"):
        open_synthesizer("kokoro", folder=tmp_path)


def test_errors_belong_to_the_utterance_where_they_are() -> None:
    assert errors_of(["seven", "lights", "off"], "sevenlightsoff") == [0, 0, 0]
    assert errors_of(["seven", "lights", "off"], "sevenlightoff") == pytest.approx([0, 1 / 6, 0])
    assert errors_of(["seven", "lights", "off"], "lightsoff") == [1, 0, 0]
    assert errors_of(["off", "on"], "offan") == [0, 0.5]  # the first letter of the second utterance is wrong
    assert errors_of(["off"], "") == [1] and letters_of("Okay, 50% at 3°!") == letters_of("OKAY PERCENT AT DEGREES")
    rng = np.random.default_rng(0)
    for _ in range(200):
        references = ["".join(rng.choice(list("abc"), size=rng.integers(1, 6))) for _ in range(3)]
        hypothesis = "".join(rng.choice(list("abc"), size=rng.integers(0, 14)))
        counts = [error * len(each) for error, each in zip(errors_of(references, hypothesis), references)]
        assert sum(counts) == pytest.approx(Levenshtein.distance("".join(references), hypothesis))


class ShortWhisper(Whisper):
    """A fake Whisper: it misses the last utterance of windows of more than 13 s, and always mishears STOP."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts, self.seconds = iter(texts), list[float]()

    def expect(self, texts: Sequence[str]) -> None:
        self._texts = iter(texts)

    def transcribe(self, samples: np.ndarray) -> str:
        self.seconds.append(samples.size / 16000)
        return next(self._texts)


def test_unclear_utterances_are_rejected_after_a_second_judgement(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    rng = np.random.default_rng(1)
    spoken = ["STOP", "TURN IT OFF", "ONE TWO", "GO ON"]
    for number, seconds in enumerate((8, 8, 8, 8)):
        soundfile.write(folder / f"{number}.flac", rng.uniform(-0.1, 0.1, 16000 * seconds), 16000)
    (folder / "wav.scp").write_text("".join(f"k{number} {folder}/{number}.flac\n" for number in range(4)))
    (folder / "text").write_text("".join(f"k{number} {text}\n" for number, text in enumerate(spoken)))
    (folder / "utt2spk").write_text("".join(f"k{number} v\n" for number in range(4)))
    groups = list(windows(read_folder(folder), 29.0))
    assert [len(group) for group, _ in groups] == [3, 1] and all(audio.size <= 29 * 16000 for _, audio in groups)
    # In the first pass, STOP is misheard, and ONE TWO is missed at the end of its window. Alone, ONE TWO is understood.
    whisper = ShortWhisper(["Top. Turn it off.", "Go on!", "Tap.", "One, two."])
    check_speech.check(folder, whisper, 0.2)
    assert [round(seconds) for seconds in whisper.seconds] == [26, 9, 9, 9]
    assert (folder / "kept").read_text().split() == ["k1", "k2", "k3"]
    assert (folder / "rejected").read_text() == "k0 0.50 STOP\n"
    check_speech.check(folder, ShortWhisper([]), 0.2)  # judged already: nothing is transcribed again
    assert (folder / "kept").read_text().split() == ["k1", "k2", "k3"]
    assert (folder / "rejected").read_text() == "k0 0.50 STOP\n"


def test_a_transcript_never_mixes_two_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(8000), 16000)
    (tmp_path / "wav.scp").write_text(f"a {tmp_path}/a.wav\n")
    output = tmp_path / "exp" / "words"
    monkeypatch.setattr(transcribe_reference, "pocketsphinx", lambda: lambda samples: "turn it off")
    monkeypatch.setattr(transcribe_reference, "Whisper", lambda model: ShortWhisper(["stop"]))
    sphinx = ["pocketsphinx", str(tmp_path), "--output", str(output)]
    assert transcribe_reference.main(sphinx) == transcribe_reference.main(sphinx) == 0
    assert output.read_text() == "a TURN IT OFF\n"
    whisper = ["whisper", *sphinx[1:], "--model", "tiny.en"]
    with pytest.raises(ValueError, match=r"exp/words: holds lines of pocketsphinx, not whisper tiny.en; delete it, or"):
        transcribe_reference.main(whisper)
    output.unlink()
    assert transcribe_reference.main(whisper) == 0 and output.read_text() == "a STOP\n"
    (tmp_path / "exp" / "words.made_from").unlink()  # as of earlier versions
    with pytest.raises(ValueError, match="holds lines of an unknown system, not whisper tiny.en; delete it"):
        transcribe_reference.main(whisper)


def test_sounds_are_made_to_the_given_duration(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    speech = rng.uniform(-0.5, 0.5, 32000)
    soundfile.write(tmp_path / "speech.wav", speech, 16000, subtype="FLOAT")
    count = make_sounds.write_sounds([tmp_path / "speech.wav"], 150 / 3600, 3, tmp_path / "sounds")
    paths = read_table(tmp_path / "sounds" / "wav.scp")
    seconds = [soundfile.info(path).duration for path in paths.values()]
    assert count == len(paths) and sum(seconds[:-1]) < 150 <= sum(seconds) and min(seconds) >= 1
    assert set(read_table(tmp_path / "sounds" / "text").values()) == {""}
    assert len(set(read_table(tmp_path / "sounds" / "utt2spk").values())) > 5
    backwards = make_sounds.backwards(32000, [tmp_path / "speech.wav"], np.random.default_rng(4))
    assert abs(np.corrcoef(backwards, speech[::-1])[0, 1]) > 0.99
    for kind in (make_sounds.hum, make_sounds.clicks, make_sounds.breath, make_sounds.silence):
        assert np.isfinite(kind(5000, rng)).all()
    with pytest.raises(FileNotFoundError, match="missing.wav"):
        make_sounds.backwards(8000, [tmp_path / "missing.wav"], rng)


def kaldi_folder(folder: Path, speakers: dict[str, str], text: str = "WORD") -> None:
    folder.mkdir(parents=True)
    (folder / "wav.scp").write_text("".join(f"{key} audio/{key}.flac\n" for key in speakers))
    (folder / "text").write_text("".join(f"{key} {text}\n" for key in speakers))
    (folder / "utt2spk").write_text("".join(f"{key} {speaker}\n" for key, speaker in speakers.items()))


def test_sets_share_no_speaker_and_leave_rejected_speech_out(tmp_path: Path) -> None:
    data, speech, output = tmp_path / "corpora", tmp_path / "speech", tmp_path / "data"
    kaldi_folder(data / "english" / "train", {f"u{number}": f"s{number % 24:02d}" for number in range(48)})
    kaldi_folder(data / "english" / "dev", {"d0": "x", "d1": "y"}, "ONE TWO")
    kaldi_folder(data / "speech_commands_300", {"w0": "z"}, "CAT")
    recordings = data / "fsdd" / "recordings"
    recordings.mkdir(parents=True)
    for speaker in ("anna", "yweweler"):
        for digit in range(3):
            soundfile.write(recordings / f"{digit}_{speaker}_0.wav", np.full(800, 0.1), 8000)
    kaldi_folder(speech / "hibari", {f"h{number}": "v" for number in range(4)})
    (speech / "hibari" / "kept").write_text("h0\nh2\n")
    (recordings / "notes.wav").touch()  # its name is not that of a recording of a digit
    for name in ("test_voices", "test_mine", "dev_voices", "sounds"):
        kaldi_folder(speech / name, {f"{name}-0": name})
    arguments = [str(data), str(speech), "--local", str(tmp_path / "local"), "--output", str(output)]
    assert divide_corpora.main(arguments) == 0
    sets = {path.parent.name: read_table(path) for path in output.glob("*/utt2spk")}
    assert set(sets) == {"train", "dev", "english_dev", "strings", "words", "digits", "voices", "mine"}
    held_out = {speaker for name in set(sets) - {"train"} for speaker in sets[name].values()}
    assert not held_out & set(sets["train"].values())
    assert {"s05", "s17", "yweweler", "dev_voices"} == set(sets["dev"].values())
    assert {key for key in sets["train"] if key.startswith("h")} == {"h0", "h2"}
    assert {"u0", "u0-2", "sounds-0", "digits-anna-0000", "digits-anna-0000-2"} <= set(sets["train"])
    assert sets["voices"] == {"test_voices-0": "test_voices"} and not sets["digits"]
    assert read_table(output / "train" / "wav.scp")["u0-2"] == str(data / "english" / "audio" / "u0.flac")
    texts = read_table(output / "train" / "text")
    joined = {key: text for key, text in texts.items() if key.startswith("digits-")}
    assert {word for text in joined.values() for word in text.split()} == {"ZERO", "ONE", "TWO"}


def test_incomplete_corpora_are_refused(tmp_path: Path) -> None:
    data, speech = tmp_path / "corpora", tmp_path / "speech"
    kaldi_folder(data / "english" / "train", {"u0": "s0", "u1": "s1"})
    kaldi_folder(data / "english" / "dev", {"d0": "x"})
    arguments = [str(data), str(speech), "--local", str(tmp_path / "local"), "--output", str(tmp_path / "data")]
    with pytest.raises(ValueError, match=r"train: has 2 speakers, too few for a dev set.* add speakers"):
        divide_corpora.main(arguments)
    (data / "english" / "train" / "text").write_text("u0 WORD\n")
    with pytest.raises(ValueError, match=r"train/text: lacks u1, which is in wav.scp; add its transcript"):
        divide_corpora.main(arguments)


def test_commands_that_fail_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flite").write_text("#!/bin/sh\necho no such voice >&2\nexit 3\n")
    (tmp_path / "flite").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(ValueError, match="flite fails with status 3: no such voice"):
        open_synthesizer("flite").speak("go", "en", np.random.default_rng(0))


def test_a_test_speaker_in_the_training_set_is_refused(tmp_path: Path) -> None:
    data, speech, local = tmp_path / "corpora", tmp_path / "speech", tmp_path / "local"
    kaldi_folder(data / "english" / "train", {f"u{number}": f"s{number:02d}" for number in range(23)} | {"u84": "ls84"})
    kaldi_folder(data / "english" / "dev", {"d0": "x"})
    kaldi_folder(local / "dev-clean", {"84-1-0000": "84"})
    arguments = [str(data), str(speech), "--local", str(local), "--output", str(tmp_path / "data")]
    with pytest.raises(ValueError, match="are also in the training set: 84; take them out of english/train"):
        divide_corpora.main(arguments)
    assert not (tmp_path / "data").exists()
