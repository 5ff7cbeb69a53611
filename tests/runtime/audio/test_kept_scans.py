"""Large compressed files are scanned once, however many segments are read; a changed file is scanned again."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from wenet_fusion_runtime.audio.containers import kept_scans, opening
from wenet_fusion_runtime.audio.containers.byte_ranges import Window
from wenet_fusion_runtime.audio.reader import AudioReader, load_audio

RATE = 16_000


def write(path: Path, seconds: float, form: str) -> None:
    tone = 0.3 * np.sin(np.arange(round(seconds * RATE)) / 5)
    soundfile.write(path, tone, RATE, format=form, subtype="OPUS" if form == "OGG" else None)


@pytest.mark.parametrize("form, finder", [("MP3", "find_mpeg_streams"), ("OGG", "find_ogg_streams")])
def test_segments_of_a_large_file_scan_it_once(
    form: str, finder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, find, scans = tmp_path / "recording", getattr(opening, finder), []

    def counted(window: Window, *arguments: int) -> object:
        scans.append(window.size)
        return find(window, *arguments)

    monkeypatch.setattr(opening, finder, counted)
    write(path, 2.0, form)
    for _ in range(2):
        load_audio(path, RATE, 0.5, 1.0)
    assert len(scans) == 2, "small files are scanned each time"
    monkeypatch.setattr(kept_scans, "LARGE_BYTES", 1)
    whole = load_audio(path, RATE)
    for start in (0.0, 0.5, 1.0):
        part = load_audio(path, RATE, start, start + 0.5)
        assert np.allclose(part, whole[round(start * RATE) :][: part.size], atol=2e-2)
    assert len(scans) == 3
    write(path, 3.0, form)
    os.utime(path, ns=(1, 1))
    with AudioReader(path) as reader:
        assert reader.seconds == pytest.approx(3.0, abs=0.1)
    assert len(scans) == 4
    with open(path, "rb") as file:
        assert load_audio(file, RATE).size == pytest.approx(3 * RATE, abs=0.1 * RATE)
    assert len(scans) == 5, "an open file may be a part of another file"


def test_segments_of_mp3_are_those_of_the_whole_file(tmp_path: Path) -> None:
    """libsndfile mutes frames after a seek, because they need bits of the frames before them."""
    path = tmp_path / "recording.mp3"
    write(path, 6.0, "MP3")
    whole = load_audio(path, RATE)
    for start in (0.3, 0.5, 1.7, 2.9, 3.3, 4.71):
        part = load_audio(path, RATE, start, start + 1)
        assert np.allclose(part, whole[round(start * RATE) :][: part.size], atol=1e-5), start
