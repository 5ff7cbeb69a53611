"""tools/measure/measure_insertions.py: non-speech sounds have their levels, and every inserted word is counted."""

import json
from pathlib import Path

import measure_insertions
import numpy as np
import pytest
import soundfile
from nonspeech_sounds import nonspeech_sounds
from support.runtime.fake_model import SAMPLE_RATE, meta_record, save_model, speak

SPEECH = [speak("abcd"), speak("dcba")]


def test_every_kind_at_its_level() -> None:
    sounds = list(nonspeech_sounds(SAMPLE_RATE, 2.0, SPEECH))
    assert {sound.kind for sound in sounds} == {
        "silence", "white noise", "pink noise", "tone", "chords", "reversed voice", "babble",
    }  # fmt: skip
    assert len({(sound.kind, sound.label) for sound in sounds}) == len(sounds)
    for sound in sounds:
        assert sound.samples.shape == (2 * SAMPLE_RATE,) and sound.samples.dtype == np.float32
        if sound.label == "digital":
            assert not sound.samples.any()
            continue
        level = 10 * np.log10(np.mean(np.square(sound.samples.astype(np.float64))))
        claimed = float(sound.label.split(" dB")[0].split()[-1])
        # Clipped sounds are a little quieter.
        assert claimed - (1.5 if claimed > -20 else 0.2) < level < claimed + 0.1, sound.label
    assert not {"reversed voice", "babble"} & {sound.kind for sound in nonspeech_sounds(SAMPLE_RATE, 1.0)}


def test_pink_noise_falls_by_three_decibels_per_octave_and_speech_is_reversed() -> None:
    sounds = {(sound.kind, sound.label): sound.samples for sound in nonspeech_sounds(SAMPLE_RATE, 20.0, SPEECH[:1])}
    power = np.square(np.abs(np.fft.rfft(sounds["pink noise", "-40 dB"])))
    octaves = [power[20 * start : 40 * start].mean() for start in (100, 200, 400, 800)]
    np.testing.assert_allclose(np.diff(10 * np.log10(octaves)), -3.0, atol=0.5)
    voice = sounds["reversed voice", "-40 dB"][: len(SPEECH[0])]
    assert np.corrcoef(voice, SPEECH[0][::-1])[0, 1] > 0.999


def test_false_words_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The fake model reads loudness as words, so it inserts words in loud tones and reversed speech, not in silence."""
    save_model(tmp_path / "model.zip", meta_record() | {"chunkings": [{"size": 8, "left": 2}]})
    soundfile.write(tmp_path / "a.wav", SPEECH[0], SAMPLE_RATE, subtype="FLOAT")
    (tmp_path / "data.list").write_text(json.dumps({"key": "a", "wav": "a.wav", "txt": "a b c d"}) + "\n")
    command = [str(tmp_path / "model.zip"), "--seconds", "2", "--speech", str(tmp_path / "data.list"), "--show_texts"]
    assert measure_insertions.main(command) == 0
    out = capsys.readouterr().out.splitlines()
    texts = [line for line in out if "; chunks of 8, " in line]
    table = {
        cells[1]: cells[2:-1]
        for line in out
        if line.startswith("| ") and (cells := [c.strip() for c in line.split("|")])
    }
    assert table["insertions per hour"][1:] == list(measure_insertions.MODES)
    assert table["silence"] == ["0.00", "0", "0", "0"] and table["white noise"][0] == "0.00"
    for column, mode in enumerate(measure_insertions.MODES):
        lines = [line for line in texts if line.startswith("tone, ") and f"{mode}: " in line]
        words = sum(len(line.split(": ")[1].split()) for line in lines)
        assert words > 0 and table["tone"][column + 1] == f"{words / (8 * 2 / 3600):.0f}"
    assert out[-1].startswith(f"{tmp_path / 'model.zip'}: insertions per hour of non-speech sounds, in the worst of 3")
    assert "silence 0, white noise" in out[-1] and "reversed voice" in out[-1] and "babble" in out[-1]


def test_recordings_that_cannot_be_read_are_listed_and_the_rest_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(tmp_path / "model.zip", meta_record() | {"chunkings": [{"size": 8, "left": 2}]})
    soundfile.write(tmp_path / "a.wav", SPEECH[0], SAMPLE_RATE, subtype="FLOAT")
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    names = ("bad", "a", "gone")
    lines = [json.dumps({"key": name, "wav": f"{name}.wav", "txt": "a", "duration": 1.0}) + "\n" for name in names]
    (tmp_path / "data.list").write_text("".join(lines))
    command = [str(tmp_path / "model.zip"), "--seconds", "1", "--speech", str(tmp_path / "data.list")]
    assert measure_insertions.main([*command, "--modes", "ctc_greedy_search"]) == 1
    out, err = capsys.readouterr()
    assert "| babble |" in out and "data.list:3: there is no audio file" in err and "bad: " in err
    assert err.endswith("error: 2 recordings could not be read and were left out\n")
    (tmp_path / "data.list").write_text(lines[0])
    with pytest.raises(ValueError, match="no recording of .*data.list could be read; the first problem: bad: "):
        measure_insertions.main(command)


def test_modes_that_a_model_has_and_bad_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(tmp_path / "model.zip", meta_record() | {"decoder": False, "reverse_decoder": False})
    assert measure_insertions.main([str(tmp_path / "model.zip"), "--seconds", "1"]) == 0
    out = capsys.readouterr().out
    assert "attention_rescoring" not in out and "babble" not in out
    with pytest.raises(ValueError, match="no attention decoder"):
        measure_insertions.main([str(tmp_path / "model.zip"), "--modes", "attention_rescoring"])
    with pytest.raises(ValueError, match="--seconds 0.5: a sound needs at least one second"):
        measure_insertions.main([str(tmp_path / "model.zip"), "--seconds", "0.5"])
