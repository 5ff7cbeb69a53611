"""Containers with floods of frames, chunks and streams, damage between frames, or samples in several chunks."""

import io
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from support.runtime.audio_zoo import written
from support.runtime.pipes import through_pipe
from wenet_fusion_runtime.audio.containers.mpeg_frames import parse_frame
from wenet_fusion_runtime.audio.reader import AudioReader, load_audio

MP3 = written("MP3", "MPEG_LAYER_III", 16000)
WAV = written("WAV", "PCM_16", 16000)
OTHER = written("WAV", "PCM_16", 8000)
HEAD = MP3[MP3.index(b"\xff", 4 * 36) :][:4]  # header of the frame after the encoder's tag
SAMPLES = 36800
CPU_SECONDS = 10.0  # for some MiB; a search byte by byte took 3 s per MiB


def load(content: bytes) -> np.ndarray:
    return load_audio(io.BytesIO(content), 16000)


def chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def in_chunks(wav: bytes, *sizes: int) -> bytes:
    """Return a WAV file with samples in several chunks of `sizes` bytes, then the rest; other chunks are in between."""
    place, parts = wav.index(b"data"), []
    samples = wav[place + 8 :]
    for size in (*sizes, len(samples)):
        parts.append(chunk(b"data", samples[:size]) + chunk(b"junk", b"odd"))
        samples = samples[size:]
    return wav[:place] + b"".join(parts)


@pytest.mark.parametrize(
    "unit", [b"\xff", b"\xff\xe0", b"\xff\xfb\x90\x64"], ids=["sync bytes", "syncs", "false headers"]
)
def test_garbage_after_mp3_costs_little(unit: bytes) -> None:
    begun = time.process_time()
    found = load(MP3 + unit * ((8 << 20) // len(unit)))
    assert len(found) == len(load(MP3)) and time.process_time() - begun < CPU_SECONDS


def test_damage_between_frames_reaches_neither_the_decoder_nor_standard_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """If it reached the decoder, that would print a note and give up after 1024 bytes. A single header is no frame."""
    middle = MP3.index(HEAD[:2], len(MP3) // 2)
    rng = np.random.default_rng(0)
    damage = bytes(rng.integers(0, 0xFF, 5000, np.uint8)) + HEAD + bytes(3000)
    tag = b"APETAGEX" + bytes(rng.integers(0, 0xFF, 2000, np.uint8))
    expected = load(MP3)
    (tmp_path / "a.mp3").write_bytes(MP3[:middle] + damage + MP3[middle:] + tag)
    capfd.readouterr()
    for source in (tmp_path / "a.mp3", io.BytesIO(MP3 + tag), through_pipe(tmp_path / "pipe", MP3 + tag)):
        assert abs(len(load_audio(source, 16000)) - len(expected)) <= 2 * 576
        assert capfd.readouterr().err == ""


def test_floods_of_chunks_and_of_files_are_refused() -> None:
    for place in (12, 36):
        with pytest.raises(ValueError, match="its WAV header has more than 1000 chunks"):
            load(WAV[:place] + b"abcd\0\0\0\0" * 3000 + WAV[place:])
    assert len(load(WAV + b"abcd\0\0\0\0" * 3000)) == SAMPLES
    frames = 0
    for _ in range(3):
        frames += parse_frame(MP3[frames : frames + 4]).size
    for content in (WAV[:40] + bytes(4), MP3[:frames]):
        with pytest.raises(ValueError, match="consists of more than 2000 joined recordings; split it"):
            load(content * 3000)


@pytest.mark.parametrize("sizes", [(20000,), (20001,), (10, 30000, 0)])
def test_samples_in_several_chunks_are_read_to_the_end(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    """An incomplete sample at a chunk's end is dropped."""
    content = in_chunks(WAV, *sizes)
    whole, found = load(WAV), load(content)
    piped = load_audio(through_pipe(tmp_path / "pipe", content), 16000)
    lost = sum(size % 2 for size in sizes)
    assert len(found) == len(piped) == SAMPLES - lost
    if not lost:
        np.testing.assert_array_equal(found, whole)
    np.testing.assert_array_equal(found, piped)
    with AudioReader(io.BytesIO(content)) as reader:
        assert reader.seconds == len(found) / 16000
    np.testing.assert_array_equal(load_audio(io.BytesIO(content), 16000, start=1.0), found[16000:])
    with pytest.raises(ValueError, match="is damaged or ends too early"):
        load(content[:-9000])


def test_compressed_samples_in_several_chunks_are_refused() -> None:
    with pytest.raises(ValueError, match="has compressed samples in several chunks.; convert it to wav or flac"):
        load(in_chunks(written("WAV", "IMA_ADPCM", 16000), 5120))


def test_joined_files_are_read_from_a_pipe_as_from_a_disk(tmp_path: Path) -> None:
    with_note = WAV + chunk(b"LIST", b"a note")
    for content, count in ((WAV + WAV, 2), (with_note * 3, 3), (with_note + in_chunks(WAV, 20), 2)):
        for source in (io.BytesIO(content), through_pipe(tmp_path / "pipe", content)):
            assert len(load_audio(source, 16000)) == count * SAMPLES
    for source in (io.BytesIO(WAV + OTHER), through_pipe(tmp_path / "pipe", WAV + OTHER)):
        with pytest.raises(ValueError, match="changes from 16000 to 8000 Hz after 2.30 s"):
            load_audio(source, 16000)
