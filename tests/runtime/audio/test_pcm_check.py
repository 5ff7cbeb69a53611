"""Bytes that are not samples are detected; audio of every kind and loudness is accepted."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.runtime.audio_zoo import speech
from wenet_fusion_runtime.audio.pcm_check import SPARSE, WINDOW_BYTES, WINDOWS, PcmCheck

VOICE = speech(16000, seconds=4.0)[:, 0]


def verdict(data: bytes, piece: int = 3000, channels: int = 1) -> str | None:
    check = PcmCheck(channels)
    try:
        for start in range(0, len(data), piece):
            check.feed(data[start : start + piece])
        check.end()
    except ValueError as error:
        return str(error)
    return None


def int16(samples: np.ndarray, kind: str = "<i2") -> bytes:
    return np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(kind).tobytes()


def file(kind: str, subtype: str | None = None) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, VOICE, 16000, format=kind, subtype=subtype)
    return content.getvalue()


def in_three_bytes(samples: np.ndarray) -> bytes:
    return (samples * 2.0**23).astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()


@pytest.mark.parametrize(
    "data, kind",
    [
        (file("FLAC"), "a FLAC file"),
        (file("OGG"), "an Ogg file"),
        (file("MP3"), "an mp3 file"),
        (file("AIFF"), "an AIFF file"),
        (file("CAF"), "a CAF file"),
        (file("OGG")[9000:], "noise at full scale, such as compressed"),
        (VOICE.astype("<f4").tobytes(), "32-bit floats"),
        ((VOICE * 20000).astype("<f4").tobytes(), "32-bit floats"),
        (VOICE.astype("<f8").tobytes(), "64-bit floats"),
        (int16(VOICE, ">i2"), "big-endian 16-bit samples"),
        (in_three_bytes(VOICE), "24-bit samples"),
        ((VOICE * 2.0**31).astype("<i4").tobytes(), "32-bit samples"),
        (int16(np.stack([VOICE, 0 * VOICE], axis=1)), "32-bit samples, or two channels"),
        (file("RAW", "ULAW"), "8-bit mu-law samples"),
        (file("RAW", "ALAW"), "8-bit A-law samples"),
        (file("RAW", "PCM_U8"), "8-bit samples"),
    ],
)
def test_other_bytes_are_named(data: bytes, kind: str) -> None:
    for before in (b"", bytes(WINDOW_BYTES)) if "file" not in kind else (b"",):
        found = verdict(before + data)
        assert found is not None and found.startswith(f"the bytes are {kind}") and "expected signed 16-bit" in found


def test_audio_of_every_loudness_is_left_alone() -> None:
    rng = np.random.default_rng(0)
    time = np.arange(64000) / 16000
    for gain in (0.001, 0.01, 0.1, 1.0, 3.0, 30.0):
        assert verdict(int16(gain * VOICE)) is None
        for level in (0.001, 0.1, 0.5, 2.0):
            noise = rng.standard_normal(64000)
            assert verdict(int16(gain * VOICE + level * noise)) is None
            assert verdict(int16(level * np.diff(noise, prepend=0.0))) is None  # without low frequencies
    for frequency in (50, 1000, 4000, 5333, 7990):
        assert verdict(int16(0.9 * np.sin(2 * np.pi * frequency * time))) is None
        assert verdict(int16(np.sign(np.sin(2 * np.pi * frequency * time)))) is None
    assert verdict(bytes(100_000)) is None and verdict(b"") is None and verdict(bytes(3)) is None
    assert verdict(rng.integers(-1, 2, 64000).astype("<i2").tobytes()) is None  # dither
    stereo = np.stack([VOICE, 0 * VOICE], axis=1)
    assert verdict(int16(stereo), channels=2) is None


def test_only_the_beginning_is_judged() -> None:
    audio = bytes(WINDOW_BYTES * WINDOWS)
    assert verdict(audio + int16(VOICE, ">i2")) is None
    assert verdict(audio[WINDOW_BYTES * 8 :] + int16(VOICE, ">i2")) is not None
    for silent in range(WINDOWS - 2 * SPARSE):  # wherever the voice begins, it is found
        assert verdict(bytes(WINDOW_BYTES * silent) + int16(VOICE, ">i2")) is not None, silent


def test_recorded_speech_is_left_alone(recorded_data: Path) -> None:
    for path in sorted(recorded_data.rglob("*.wav"))[::40][:150]:
        samples, _ = soundfile.read(path, dtype="float32", always_2d=True)
        for gain in (0.1, 1.0, 10.0):
            assert verdict(int16(gain * samples[:, 0])) is None, path


def test_text_is_named_and_generated_signals_are_not() -> None:
    page = b"<!DOCTYPE html>\n<title>404 Not Found</title>\n" * 8
    for repeats in (1, 100):  # shorter and longer than a window
        assert "are a text file" in (verdict(page * repeats) or "")
    assert verdict(bytes([0x30, 0x30, 0x50, 0x50]) * 3000) is None
