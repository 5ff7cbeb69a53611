"""PCM from pipes, raw or with a header, cut anywhere; and wav files that are valid while they are written."""

import io
import itertools
import os
import struct
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from support.runtime.pipes import wait_for_reader
from wenet_fusion_runtime.audio.pcm_pipe import PcmPipe
from wenet_fusion_runtime.audio.wav_writer import WavWriter

SAMPLES = np.random.default_rng(0).integers(-32768, 32768, (900, 2)).astype(np.int16)


def wav(samples: np.ndarray, rate: int, subtype: str = "PCM_16", kind: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, subtype=subtype, format=kind)
    return file.getvalue()


def header_of(rate: int, channels: int) -> bytes:
    """A header of 16-bit samples, and 100 bytes of them."""
    numbers = struct.pack("<HHIIHH", 1, channels, rate, 0, 2 * channels, 16)
    return b"RIFF....WAVEfmt " + struct.pack("<I", 16) + numbers + b"data" + struct.pack("<I", 100) + bytes(100)


def through_a_pipe(pieces: list[bytes], pause: float = 0.0, **arguments: int) -> tuple[np.ndarray, int]:
    """Return samples and rate of audio that is written to a pipe piece by piece and read after a pause."""
    reader, writer = os.pipe()

    def write() -> None:
        for piece in pieces:
            os.write(writer, piece)
        os.close(writer)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        with PcmPipe(reader, **arguments) as source:
            time.sleep(pause)
            blocks = list(source.blocks())
            assert source.lost_seconds == 0 and all(0 <= time.monotonic() - block.captured < 60 for block in blocks)
    finally:
        thread.join(5)
        wait_for_reader()
        os.close(reader)
    return np.concatenate([block.samples for block in blocks]), blocks[0].sample_rate


def cut(data: bytes, at: list[int]) -> Iterator[bytes]:
    edges = [0, *sorted(min(position, len(data)) for position in at), len(data)]
    return (data[start:end] for start, end in itertools.pairwise(edges))


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 3700), max_size=8), st.booleans(), st.integers(0, 3))
def test_any_cut_gives_the_same_samples(at: list[int], header: bool, extra: int) -> None:
    data, arguments = SAMPLES.tobytes() + bytes(extra), {"sample_rate": 8000, "channels": 2}
    if header:
        data, arguments = wav(SAMPLES, 8000), {}
    samples, rate = through_a_pipe(list(cut(data, at)), **arguments)
    assert rate == 8000 and samples.dtype == np.int16 and np.array_equal(samples, SAMPLES)


def test_bare_samples_are_16_khz_mono_by_default() -> None:
    samples, rate = through_a_pipe([SAMPLES.tobytes()])
    assert rate == 16000 and np.array_equal(samples, SAMPLES.reshape(-1, 1))


def test_all_chunks_of_samples_and_all_files_of_a_pipe_are_read() -> None:
    """A file may end with other chunks; another rate is an error after the audio before it."""
    first, note = header_of(8000, 1), b"LIST\x03\0\0\0abc\0"
    more = b"data" + struct.pack("<I", 60) + bytes(60)
    for pieces, count in (
        ([first, note, more], 80),
        ([first + b"data\0\0\0\0" + more], 80),
        ([first, note, first], 100),
    ):
        samples, rate = through_a_pipe(pieces)
        assert (samples.shape, rate) == ((count, 1), 8000)
    with pytest.raises(ValueError, match="the pipe's WAV header states 16000 Hz, expected 8000 as given"):
        through_a_pipe([first, header_of(16000, 1)])


def test_a_slow_recogniser_makes_the_pipe_wait() -> None:
    spoken = np.random.default_rng(1).integers(-9, 9, (15 * 8000, 1)).astype(np.int16)  # 10 s may wait
    samples, _ = through_a_pipe([spoken.tobytes()], pause=0.3, sample_rate=8000)
    assert np.array_equal(samples, spoken)


def test_headers_of_several_programs_are_understood() -> None:
    unknown = bytearray(wav(SAMPLES, 44100))
    size_at = unknown.index(b"data") + 4
    for size in (0, 0x7FFFFFFF, 0xFFFFFFFF):  # sizes that programs state for a pipe
        unknown[size_at : size_at + 4] = size.to_bytes(4, "little")
        assert np.array_equal(through_a_pipe([bytes(unknown)])[0], SAMPLES)
    extensible = wav(SAMPLES, 44100, kind="WAVEX")
    assert np.array_equal(through_a_pipe([extensible])[0], SAMPLES)
    plain = wav(SAMPLES, 44100)
    for subtype in ("PCM_24", "PCM_32", "FLOAT", "PCM_U8"):  # read like files
        same = through_a_pipe([wav(SAMPLES / 32768.0, 44100, subtype)])[0]
        assert np.abs(same.astype(int) - SAMPLES).max() <= (256 if subtype == "PCM_U8" else 1)
    listed = plain[:12] + b"LIST" + (3).to_bytes(4, "little") + b"abc\0" + plain[12:] + b"LIST" + bytes(4)
    assert np.array_equal(through_a_pipe([listed])[0], SAMPLES)  # bytes after the samples are not samples


@pytest.mark.parametrize(
    "data, arguments, message",
    [
        (b"", {}, "no audio came through the pipe; check the program that writes to it"),
        (b"x", {}, "no audio came through the pipe"),
        (wav(SAMPLES, 8000)[:44], {}, "no audio came through the pipe"),
        (wav(SAMPLES, 8000)[:30], {}, "damaged or cut off"),
        (b"RIFF....WAVEfmt " + b"\xff" * 30, {}, "damaged or cut off"),
        (wav(SAMPLES, 8000, "IMA_ADPCM"), {}, r"format 17 with .* expected PCM \(arecord -f S16_LE\)"),
        (wav(4.0e4 * SAMPLES.astype(np.float32), 8000, "FLOAT"), {}, "in the scale of integers"),
        (wav(SAMPLES, 8000), {"sample_rate": 16000}, "states 8000 Hz, expected 16000 as given"),
        (wav(SAMPLES, 8000), {"channels": 1}, "states 2 channels, expected 1 as given"),
        (
            b"RIFF....WAVEfmt " + (16).to_bytes(4, "little") + bytes([1, 0, 0, 0, *bytes(10), 16, 0]),
            {},
            "0 Hz is not accepted, expected 4000 to 384000 Hz",
        ),
        (header_of(2**32 - 1, 32), {}, "4294967295 Hz is not accepted, expected 4000 to 384000 Hz"),
        (header_of(8000, 33), {}, "33 channels are not accepted"),
        (
            wav(SAMPLES, 8000, kind="FLAC"),
            {},
            "the bytes are a FLAC file, expected signed 16-bit little-endian samples",
        ),
        (wav(SAMPLES.astype(np.float32), 8000, kind="MP3", subtype="MPEG_LAYER_III"), {}, "the bytes are an mp3 file"),
    ],
)
def test_bytes_that_are_not_audio_are_reported(data: bytes, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        through_a_pipe([data], **arguments)


def test_stop_ends_a_pipe_whose_writer_goes_on() -> None:
    reader, writer = os.pipe()
    with PcmPipe(reader) as source:
        os.write(writer, SAMPLES.tobytes())
        blocks = source.blocks()
        first = next(blocks)
        source.stop()
        got = np.concatenate([block.samples for block in [first, *blocks]])
    assert len(got) >= 1600 and np.array_equal(got, SAMPLES.reshape(-1, 1)[: len(got)])
    os.close(writer)
    wait_for_reader()
    os.close(reader)


def test_a_sample_cut_in_two_is_put_together() -> None:
    data = SAMPLES.tobytes()
    reader, writer = os.pipe()
    with PcmPipe(reader) as source:
        os.write(writer, data[:1601])
        blocks = source.blocks()
        first = next(blocks)  # the reader has read the half sample
        os.write(writer, data[1601:])
        os.close(writer)
        got = np.concatenate([block.samples for block in [first, *blocks]])
    assert len(first.samples) == 800 and np.array_equal(got, SAMPLES.reshape(-1, 1))
    wait_for_reader()
    os.close(reader)


def test_a_saved_file_is_what_was_written(tmp_path: Path) -> None:
    with WavWriter(tmp_path / "a.wav") as writer:
        assert not writer.paths and not (tmp_path / "a.wav").exists()
        for start in range(0, 900, 70):
            writer.write(SAMPLES[start : start + 70], 22050)
    samples, rate = soundfile.read(tmp_path / "a.wav", dtype="int16")
    assert rate == 22050 and np.array_equal(samples, SAMPLES) and writer.paths == [tmp_path / "a.wav"]


def test_a_recording_goes_on_in_another_file_when_one_is_full(tmp_path: Path) -> None:
    with WavWriter(tmp_path / "b.wav", max_bytes=400) as writer:
        writer.write(SAMPLES[:100], 8000)
    assert writer.paths == [tmp_path / "b.wav"]
    with WavWriter(tmp_path / "a.wav", max_bytes=1600) as writer:
        for start in range(0, 900, 100):
            writer.write(SAMPLES[start : start + 100], 8000)
    parts = [soundfile.read(tmp_path / name, dtype="int16")[0] for name in ("a.wav", "a-2.wav", "a-3.wav")]
    assert [len(part) for part in parts] == [400, 400, 100] and np.array_equal(np.concatenate(parts), SAMPLES)


def test_nothing_is_overwritten_and_names_are_checked(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("mine")
    for name, kind, message in (
        ("a.wav", FileExistsError, "a.wav: exists already; choose another name, or remove it"),
        ("no/b.wav", FileNotFoundError, "b.wav: its folder does not exist"),
        ("a.flac", ValueError, "a.flac: audio is saved as wav; choose a name that ends in .wav"),
    ):
        with pytest.raises(kind, match=message):
            WavWriter(tmp_path / name)
    assert (tmp_path / "a.wav").read_text() == "mine"


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from wenet_fusion_runtime.audio.wav_writer import WavWriter
writer = WavWriter(Path(sys.argv[1]))
for value in range(20):
    writer.write(np.full((100, 1), value, dtype=np.int16), 8000)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_kill_leaves_a_valid_file(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a.wav")], env=environment, check=False)
    assert result.returncode < 0
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert file.getparams()[:3] == (1, 2, 8000)
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    assert len(samples) >= 1900 and np.array_equal(samples, np.repeat(np.arange(20), 100)[: len(samples)])
