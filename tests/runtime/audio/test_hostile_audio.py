"""Wrong headers, playlists that name other files, floats in the wrong scale, and formats without a decoder."""

import contextlib
import io
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.runtime.audio_zoo import encoded, speech
from support.runtime.pipes import through_pipe
from wenet_fusion_runtime.audio.containers.byte_ranges import FileRange
from wenet_fusion_runtime.audio.reader import AudioReader, load_audio

NOISE = (0.1 * np.random.default_rng(0).standard_normal(20_000)).astype(np.float32)


@pytest.mark.parametrize("rate, channels, message", [(2_000_000_000, 1, "2000000000 Hz"), (16000, 200, "200 channels")])
def test_numbers_in_a_header_are_not_trusted(tmp_path: Path, rate: int, channels: int, message: str) -> None:
    header = struct.pack("<HHIIHH", 1, channels, rate, 0, 2 * channels, 16)
    content = (
        b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<I", 16) + header + b"data" + struct.pack("<I", 32000) + bytes(32000)
    )
    for source in (io.BytesIO(content), through_pipe(tmp_path / "pipe", content)):
        with pytest.raises(ValueError, match=f"{message}.* not accepted, expected"):
            AudioReader(source)


def test_audio_that_was_not_received_does_not_exist() -> None:
    """163 bytes whose header states years of audio."""
    file = io.BytesIO()
    soundfile.write(file, NOISE, 16000, format="W64", subtype="IMA_ADPCM")
    content = bytearray(file.getvalue())
    place = content.index(b"data") + 16
    for size in (2**40, 2**62):
        content[16:24] = content[place : place + 8] = struct.pack("<Q", size)
        for length in (place + 40, len(content) - 200):
            read = 0
            with contextlib.suppress(ValueError), AudioReader(io.BytesIO(bytes(content[:length])), "a.w64") as reader:
                for block in reader.blocks():
                    read += len(block)
            assert read <= 2 * length + 5000


def test_floats_in_the_scale_of_integers_are_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", 2e4 * NOISE, 8000, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"a.wav: float samples reach .*expected \[-1, 1\]; .*divide them by 32768"):
        load_audio(tmp_path / "a.wav", 8000)


def test_a_format_that_needs_the_extra_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)  # as if it were not installed
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(3000))
    with pytest.raises(ValueError, match=r"a.m4a: .*needs PyAV: pip install 'wenet-fusion-runtime\[media\]'"):
        AudioReader(tmp_path / "a.m4a")


def test_playlists_that_open_other_files_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("av")
    soundfile.write(tmp_path / "secret.wav", NOISE, 8000)
    for name, text in (
        ("a.m3u8", f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{tmp_path}/secret.wav\n#EXT-X-ENDLIST\n"),
        ("a.ffconcat", f"ffconcat version 1.0\nfile {tmp_path}/secret.wav\n"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=f"{name}: cannot be read as audio"):
            AudioReader(tmp_path / name)


def test_an_open_file_stays_open() -> None:
    for form in ("WAV", "FLAC", "MP3", "AIFF"):
        file = io.BytesIO()
        soundfile.write(file, NOISE, 16000, format=form)
        file.seek(0)
        with AudioReader(file) as reader:
            assert reader.seconds == pytest.approx(1.25, abs=0.1)
        assert not file.closed, form


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_mp3_after_garbage_is_read_whole_from_a_path(tmp_path: Path) -> None:
    """The first decoder only identifies the format; the file stays open for the second decoder."""
    file = io.BytesIO()
    soundfile.write(file, np.tile(NOISE, 40), 16000, format="MP3")
    (tmp_path / "a.mp3").write_bytes(bytes(700) + file.getvalue())
    assert len(load_audio(tmp_path / "a.mp3", 16000)) == pytest.approx(800_000, abs=3000)


def test_positions_far_beyond_the_end_are_the_end() -> None:
    """Otherwise soundfile and PyAV would print a traceback of the system's error."""
    with tempfile.TemporaryFile() as file:
        part = FileRange(file, 10, 20)
        part.seek((1 << 63) - 1)
        assert part.read(1) == b""


@pytest.mark.parametrize("kind", ["AIFF", "AU", "SVX", "RIFX"])
def test_a_cut_is_found_where_only_libsndfile_reads_the_header(kind: str) -> None:
    file = io.BytesIO()
    endian, form = ("BIG", "WAV") if kind == "RIFX" else ("FILE", kind)
    soundfile.write(file, NOISE, 16000, format=form, subtype="PCM_16", endian=endian)
    content = file.getvalue()
    assert len(load_audio(io.BytesIO(content), 16000)) == len(NOISE)
    read = 0
    early = pytest.raises(ValueError, match="cut: is damaged or ends too early, found 0.6. s of 1.2. s")
    with AudioReader(io.BytesIO(content[:-20_000]), "cut") as reader, early:
        for block in reader.blocks():
            read += len(block)
    assert abs(read - (len(NOISE) - 10_000)) < 50


def test_an_empty_recording_before_another_adds_nothing() -> None:
    empty, full = io.BytesIO(), io.BytesIO()
    soundfile.write(empty, NOISE[:0], 16000, format="WAV")
    soundfile.write(full, NOISE, 16000, format="WAV")
    joined = load_audio(io.BytesIO(2 * empty.getvalue() + full.getvalue() + empty.getvalue()), 16000)
    assert np.abs(joined - NOISE).max() < 1e-4


READ_CHANNEL = """
import sys, numpy, wenet_fusion_runtime
numpy.save(sys.argv[2], wenet_fusion_runtime.load_audio(sys.argv[1], 16000, channel=8))
"""


@pytest.mark.parametrize("channels", [8, 16])
def test_many_planes_do_not_end_the_process(tmp_path: Path, channels: int) -> None:
    """PyAV reads beyond its list of planes from 7.1 channels on. This crashed, so the test has its own process."""
    pytest.importorskip("av")
    (tmp_path / "a.wv").write_bytes(encoded("wv", "wavpack", 16000, channels))
    subprocess.run([sys.executable, "-c", READ_CHANNEL, str(tmp_path / "a.wv"), str(tmp_path / "a.npy")], check=True)
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), speech(16000, channels)[:, 7], atol=8e-3)
