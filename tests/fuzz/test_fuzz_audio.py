"""Damaged audio files, and streams of bytes that are not samples."""

import io
import os
from collections.abc import Callable

import numpy as np
import pytest
import soundfile
from hypothesis import strategies as st
from support.runtime.audio_zoo import encoded, speech, with_sizes
from support.runtime.fuzzing import damaged, fuzz
from support.runtime.pipes import wait_for_reader
from wenet_fusion_runtime.audio.pcm_check import PcmCheck, file_kind
from wenet_fusion_runtime.audio.pcm_pipe import PcmPipe
from wenet_fusion_runtime.audio.reader import AudioReader, load_audio

# soundfile prints the tracebacks of exceptions in its callbacks, and continues.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")]
RATE, SECONDS = 16000, 0.2
FRAMES_PER_BYTE = 8192  # most frames per byte of a format: FLAC has 65535 in a frame of ten bytes
KINDS = (
    ("WAV", "PCM_16", 1), ("WAV", "FLOAT", 2), ("WAV", "ULAW", 1), ("WAV", "IMA_ADPCM", 1), ("WAV", "MS_ADPCM", 2),
    ("WAVEX", "PCM_24", 2), ("RF64", "PCM_16", 1), ("W64", "PCM_16", 1), ("AIFF", "PCM_16", 1), ("AU", "PCM_16", 1),
    ("CAF", "PCM_16", 1), ("CAF", "ALAC_16", 1), ("NIST", "PCM_16", 1), ("FLAC", "PCM_16", 1), ("FLAC", "PCM_24", 2),
    ("OGG", "VORBIS", 1), ("OGG", "OPUS", 1), ("MP3", "MPEG_LAYER_III", 1), ("MP3", "MPEG_LAYER_III", 2),
)  # fmt: skip
MEDIA = (
    ("wav", "libmp3lame", 16000), ("mp4", "aac", 16000), ("adts", "aac", 16000), ("webm", "libopus", 48000),
    ("matroska", "pcm_s16le", 16000), ("asf", "wmav2", 16000), ("amr", "libopencore_amrnb", 8000),
    ("mpegts", "aac", 16000), ("flv", "aac", 44100),
)  # fmt: skip
PIECES = (
    b"RIFF",
    b"WAVE",
    b"data",
    b"fmt ",
    b"LIST\0\0\0\0",
    b"fLaC",
    b"OggS",
    b"OpusHead",
    b"ID3",
    b"\xff\xfb\x90\x64",
)


def short(container: str, subtype: str, channels: int) -> bytes:
    """A file of libsndfile."""
    file = io.BytesIO()
    soundfile.write(file, speech(RATE, channels, SECONDS), RATE, format=container, subtype=subtype)
    return file.getvalue()


class Pipe(io.BytesIO):
    """A file that cannot seek."""

    def seekable(self) -> bool:
        return False


def read(source: io.BytesIO, channel: int | None) -> None:
    """Read all of a file as `transcribe` does."""
    size = len(source.getvalue())
    with AudioReader(source, "a.x", channel) as reader:
        count = 0
        for block in reader.blocks():
            assert block.dtype == np.float32 and block.ndim == 1 and len(block) and np.isfinite(block).all()
            count += len(block)
            assert count <= FRAMES_PER_BYTE * size
    if source.seekable():
        source.seek(0)
        # At a rate such as 44,099 Hz, which damage makes, the two bounds fall between samples.
        assert abs(len(load_audio(source, 8000, start=0.01, end=0.05, name="a.x", channel=channel)) - 320) <= 1
        source.seek(0)
        with AudioReader(source, "a.x", channel) as reader:
            assert 0 < reader.seconds * reader.sample_rate <= FRAMES_PER_BYTE * size


def reading(contents: list[bytes]) -> tuple[st.SearchStrategy, Callable[[tuple], None]]:
    """Return inputs and how they are read."""
    strategy = st.tuples(
        damaged(contents, PIECES), st.sampled_from([io.BytesIO, Pipe]), st.sampled_from([None, 0, 1, 2])
    )
    return strategy, lambda value: read(value[1](value[0]), value[2])


def test_damaged_files() -> None:
    contents = [short(*kind) for kind in KINDS]
    contents += [with_sizes(contents[0], size) for size in (0, 0xFFFFFFFF)]
    contents += [contents[13] * 2, contents[15] + contents[16], contents[17] * 3]
    fuzz(*reading(contents), share=0.17, place="a.x")


def test_damaged_files_for_ffmpeg() -> None:
    pytest.importorskip("av")
    fuzz(*reading([encoded(container, codec, rate) for container, codec, rate in MEDIA]), share=0.13, place="a.x")


def streams() -> st.SearchStrategy[bytes]:
    """Bytes of a stream: noise, samples of some type, files."""
    tone = speech(RATE, 1, 0.6)[:, 0]
    samples = [
        (tone * scale).astype(kind).tobytes()
        for scale, kind in (
            (20000, "<i2"),
            (20000, ">i2"),
            (1, "<f4"),
            (1, "<f8"),
            (2e9, "<i4"),
            (100, "i1"),
            (1e30, "<f4"),
        )
    ]
    values = [np.full(9000, value, kind).tobytes() for value in (0, np.nan, np.inf, 1e-40) for kind in ("<f4", "<f8")]
    files = [short(*kind) for kind in KINDS[:4]]
    return st.one_of(st.binary(max_size=400), damaged(samples + values + files, PIECES))


def test_streams_of_samples() -> None:
    """The checks of a WebSocket's bytes, and `mic --input -`."""

    def check(value: tuple[bytes, int, int, int | None]) -> None:
        data, channels, cut, rate = value
        reader, writer = os.pipe()
        try:
            os.write(writer, data[:60000])
        finally:
            os.close(writer)
        try:
            file_kind(data[:16])
            judge = PcmCheck(channels, judges_samples=bool(cut % 2))
            for start in range(0, len(data), cut):
                judge.feed(data[start : start + cut])
            judge.end()
            with PcmPipe(reader, rate, channels if rate else None) as pipe:
                for block in pipe.blocks():
                    assert block.samples.dtype == np.int16 and len(block.samples)
        finally:
            wait_for_reader()
            os.close(reader)

    options = (st.integers(1, 3), st.integers(500, 70000), st.sampled_from([None, 8000, 16000]))
    fuzz(st.tuples(streams(), *options), check, share=0.1)
