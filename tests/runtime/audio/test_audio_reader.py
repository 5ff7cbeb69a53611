"""Reading audio files and resampling streams."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from support.runtime.pipes import through_pipe
from wenet_fusion_runtime.audio.reader import AudioReader, load_audio
from wenet_fusion_runtime.audio.resampling import Resampler, to_mono

NOISE = (0.1 * np.random.default_rng(0).standard_normal(20_000)).astype(np.float32)
EMPTY = np.zeros(0, dtype=np.float32)


def resampled(samples: np.ndarray, cuts: list[int], rates: tuple[int, int]) -> np.ndarray:
    resampler = Resampler(*rates)
    blocks = [resampler.process(block) for block in np.split(samples, sorted(cuts))]
    return np.concatenate([*blocks, resampler.process(EMPTY, last=True)])


@settings(max_examples=20, deadline=None)
@given(
    cuts=st.lists(st.integers(0, len(NOISE)), max_size=40),
    rates=st.sampled_from([(16000, 8000), (44100, 16000), (48000, 8000), (8000, 16000), (11025, 8000), (8000, 8000)]),
)
def test_resampler_output_does_not_depend_on_the_cut(cuts: list[int], rates: tuple[int, int]) -> None:
    whole = resampled(NOISE, [], rates)
    assert abs(len(whole) - len(NOISE) * rates[1] / rates[0]) <= 1
    np.testing.assert_allclose(resampled(NOISE, cuts, rates), whole, rtol=0, atol=1e-6)


def test_the_law_catches_a_resampler_that_starts_afresh_in_each_block() -> None:
    halves = [resampled(block, [], (16000, 8000)) for block in np.split(NOISE, [7001])]
    whole = resampled(NOISE, [], (16000, 8000))
    joined = np.concatenate(halves)
    assert len(joined) != len(whole) or np.abs(joined - whole).max() > 1e-3


def test_resampling_keeps_a_tone() -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(48000) / 48000).astype(np.float32)
    expected = np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)
    np.testing.assert_allclose(resampled(tone, [], (48000, 8000))[500:-500], expected[500:-500], atol=1e-4)


@pytest.mark.parametrize("rates", [(0, 8000), (8000, -1), (3999, 8000), (2**32 - 1, 8000)])
def test_impossible_sample_rates_are_refused(rates: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="Hz is not accepted, expected 4000 to 384000 Hz"):
        Resampler(*rates)


def test_to_mono_takes_the_mean_and_scales_int16() -> None:
    np.testing.assert_allclose(to_mono(np.array([[16384, 0], [-32768, -32768]], dtype=np.int16)), [0.25, -1.0])
    np.testing.assert_allclose(to_mono(np.array([0.5, -0.25])), [0.5, -0.25])
    np.testing.assert_array_equal(to_mono(np.array([[9.0, -1.0], [-3.0, -2.0]])), [0.0, -1.0])
    assert to_mono(np.zeros((5, 1), dtype=np.float32)).shape == (5,)
    assert to_mono(np.zeros((5, 32), dtype=np.int16)).shape == (5,)


@pytest.mark.parametrize(
    "samples, message",
    [
        (np.zeros(4, dtype=np.int32), "samples are int32, expected float32 in"),
        (np.zeros((2, 33), dtype=np.float32), r"shape \(2, 33\), expected \(n, channels\) with at most 32 channels"),
        (np.zeros((2, 1600), dtype=np.float32), r"transpose \(channels, n\)"),
        (np.zeros((2, 2, 2), dtype=np.float32), r"expected \(n,\) or \(n, channels\)"),
        (np.array([0.0, np.nan], dtype=np.float32), "NaN or infinity"),
        (np.array([[0.0, np.inf]], dtype=np.float32), "NaN or infinity"),
        (np.array([0.0, -20000.0], dtype=np.float32), "float samples reach 20000, .*in the scale of integers"),
    ],
)
def test_to_mono_refuses_what_it_cannot_read(samples: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_mono(samples)


@pytest.mark.parametrize(
    "name, subtype, tolerance",
    [
        ("a.wav", "PCM_16", 1e-4),
        ("a.flac", "PCM_16", 1e-4),
        ("a.ogg", "VORBIS", 0.2),
        ("a.opus", "OPUS", 0.2),
        ("a.mp3", "MPEG_LAYER_III", 0.2),
    ],
)
def test_formats(tmp_path: Path, name: str, subtype: str, tolerance: float) -> None:
    tone = 0.3 * np.sin(2 * np.pi * 300 * np.arange(16000) / 16000)
    soundfile.write(
        tmp_path / name,
        np.stack([tone, tone], axis=1),
        16000,
        subtype=subtype,
        format="OGG" if name == "a.opus" else None,
    )
    loaded = load_audio(tmp_path / name, 16000)
    assert loaded.dtype == np.float32 and loaded.shape == (16000,)
    np.testing.assert_allclose(loaded[2000:-2000], tone[2000:-2000], atol=tolerance)
    assert len(load_audio(str(tmp_path / name), 8000)) == 8000


def test_a_channel_can_be_chosen_and_channels_that_cancel_are_refused(tmp_path: Path) -> None:
    left, right = NOISE, np.roll(NOISE, 100)
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([left, right], axis=1), 8000, subtype="FLOAT")
    np.testing.assert_allclose(load_audio(path, 8000), (left + right) / 2, atol=1e-7)
    np.testing.assert_array_equal(load_audio(path, 8000, channel=2, start=0.5), right[4000:])
    with pytest.raises(ValueError, match=r"a.wav: has 2 channels, there is no channel 3"):
        load_audio(path, 8000, channel=3)
    with pytest.raises(ValueError, match="channel must be 1 to 32, or 0 for the mean of all, found -1"):
        load_audio(path, 8000, channel=-1)
    soundfile.write(path, np.stack([left, -0.95 * left], axis=1), 8000, subtype="FLOAT")
    opposite = pytest.raises(ValueError, match="a.wav: its channels have opposite phases .*--channel 1, or 0 ")
    with AudioReader(path) as reader, opposite:
        for _ in reader.blocks():
            pass
    np.testing.assert_array_equal(load_audio(path, 8000, channel=1), left)
    np.testing.assert_allclose(load_audio(path, 8000, channel=0), 0.025 * left, atol=1e-7)
    soundfile.write(path, np.zeros((8000, 2)), 8000)
    assert len(load_audio(path, 8000)) == 8000  # silent channels do not count as cancelled


def test_mp3_is_the_same_in_any_blocks(tmp_path: Path) -> None:
    tone = 0.3 * np.sin(2 * np.pi * 300 * np.arange(16000) / 16000)  # compresses well: frames use earlier bits
    soundfile.write(tmp_path / "a.mp3", np.stack([tone, tone], axis=1), 16000)
    whole = load_audio(tmp_path / "a.mp3", 16000)
    with AudioReader(tmp_path / "a.mp3") as reader:
        np.testing.assert_allclose(np.concatenate(list(reader.blocks(0.07))), whole, atol=1e-6)


def test_part_of_a_file_and_open_files(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", NOISE, 8000, subtype="FLOAT")
    np.testing.assert_array_equal(load_audio(tmp_path / "a.wav", 8000, start=0.5, end=1.25), NOISE[4000:10_000])
    np.testing.assert_array_equal(load_audio(tmp_path / "a.wav", 8000, start=2.0), NOISE[16_000:])
    np.testing.assert_array_equal(load_audio(io.BytesIO((tmp_path / "a.wav").read_bytes()), 8000), NOISE)
    with AudioReader(tmp_path / "a.wav") as reader:
        assert (reader.sample_rate, reader.seconds) == (8000, 2.5)
        assert [len(block) for block in reader.blocks(1.0)] == [8000, 8000, 4000]


@pytest.mark.parametrize("start, end", [(-1.0, None), (1.0, 1.0), (2.0, 1.0), (9.0, None), (0.0, 9.0)])
def test_parts_outside_a_file_are_refused(tmp_path: Path, start: float, end: float | None) -> None:
    soundfile.write(tmp_path / "a.wav", NOISE, 8000)
    with pytest.raises(
        ValueError, match="a.wav: (has 2.500 s, cannot take -?[0-9.]+ s to|is damaged or ends too early)"
    ):
        load_audio(tmp_path / "a.wav", 8000, start=start, end=end)


def damaged(path: Path) -> Path:
    """A file whose middle is zeros."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 3000] = bytes(3000)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "subtype, form", [("PCM_16", "WAV"), ("PCM_24", "WAVEX"), ("PCM_U8", "WAV"), ("FLOAT", "WAV"), ("IMA_ADPCM", "WAV")]
)
def test_a_truncated_wav_is_reported_after_its_samples(tmp_path: Path, subtype: str, form: str) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, NOISE, 8000, subtype=subtype, format=form)
    content = path.read_bytes()
    for cut in (1200, len(content) // 2, len(content) - 300):
        path.write_bytes(content[:cut])
        for source in (path, io.BytesIO(content[:cut])):
            with AudioReader(source, str(path)) as reader:
                count = 0
                with pytest.raises(ValueError, match=r"a.wav: is damaged or ends too early, found .* of 2\.[58]"):
                    for block in reader.blocks(0.1):
                        count += len(block)
                assert 0 < count < len(NOISE)
    path.write_bytes(content[: len(content) // 2])
    assert len(load_audio(path, 8000, start=0.2, end=0.7)) == 4000  # a part before the end is whole


def with_data_size(content: bytes, size: int) -> bytes:
    at = content.index(b"data") + 4
    return content[:at] + struct.pack("<I", size) + content[at + 4 :]


@pytest.mark.parametrize("size", [0x7FFF0000, 0x7FFFF000, 0x80000000, 0xFFFFFFFF])
def test_a_wav_that_was_written_to_a_pipe_is_no_truncated_one(tmp_path: Path, size: int) -> None:
    soundfile.write(tmp_path / "a.wav", NOISE, 8000)
    content = with_data_size((tmp_path / "a.wav").read_bytes(), size)
    (tmp_path / "a.wav").write_bytes(content + b"\0")  # an odd end is no damage either
    assert len(load_audio(tmp_path / "a.wav", 8000)) == len(NOISE)
    assert len(load_audio(through_pipe(tmp_path / "pipe", content), 8000)) == len(NOISE)


def test_pipes(tmp_path: Path) -> None:
    for name in ("a.wav", "a.flac"):
        soundfile.write(tmp_path / name, NOISE, 8000)
    wav = (tmp_path / "a.wav").read_bytes()
    assert len(load_audio(through_pipe(tmp_path / "pipe", wav), 8000)) == len(NOISE)
    with pytest.raises(ValueError, match="pipe: is damaged or ends too early, found 1.25 s of 2.50 s"):
        load_audio(through_pipe(tmp_path / "pipe", wav[: 44 + len(NOISE)]), 8000)
    flac = (tmp_path / "a.flac").read_bytes()
    np.testing.assert_array_equal(
        load_audio(through_pipe(tmp_path / "pipe", flac), 8000), load_audio(tmp_path / "a.flac", 8000)
    )


def test_damage_inside_compressed_audio_is_reported(tmp_path: Path) -> None:
    for name in ("a.flac", "a.ogg"):
        soundfile.write(tmp_path / name, np.tile(NOISE, 4), 8000)
        with pytest.raises(ValueError, match=f"{name}: is damaged"):
            load_audio(damaged(tmp_path / name), 8000)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("hello " * 500)
    (tmp_path / "random.flac").write_bytes(np.random.default_rng(0).bytes(3000))
    soundfile.write(tmp_path / "header.wav", EMPTY, 8000)
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), 8000, subtype="FLOAT")
    for name, kind, message in (
        ("missing.wav", OSError, "no such audio file"),
        (".", OSError, "is a directory"),
        ("empty.wav", ValueError, "is an empty file"),
        ("text.wav", ValueError, "cannot be read as audio"),
        ("random.flac", ValueError, "cannot be read as audio"),
        ("header.wav", ValueError, "has no samples"),
        ("nan.wav", ValueError, "NaN or infinity"),
    ):
        with pytest.raises(kind, match=message) as error:
            load_audio(tmp_path / name, 8000)
        assert str(tmp_path / name) in str(error.value)
    with pytest.raises(ValueError, match="tar member: cannot be read as audio"):
        load_audio(io.BytesIO(b"no audio"), 8000, name="tar member")


@pytest.mark.parametrize("bare", [False, True])
def test_joined_flac_streams_are_read_to_the_end(tmp_path: Path, bare: bool) -> None:
    """Also streams without further metadata: the header of their only metadata block begins with another byte."""
    streams = []
    for part in np.split(NOISE, [8000, 11000]):
        content = io.BytesIO()
        soundfile.write(content, part, 16000, format="FLAC")
        streams.append(without_metadata(content.getvalue()) if bare else content.getvalue())
    (tmp_path / "joined.flac").write_bytes(b"".join(streams))
    assert streams[0].startswith(b"fLaC\x80" if bare else b"fLaC\x00")
    np.testing.assert_allclose(load_audio(tmp_path / "joined.flac", 16000), NOISE, rtol=0, atol=1e-4)


def without_metadata(stream: bytes) -> bytes:
    """Remove all metadata blocks of a FLAC stream but the first one, which states its format."""
    place, is_last = 4, False
    while not is_last:
        is_last = bool(stream[place] & 0x80)
        place += 4 + int.from_bytes(stream[place + 1 : place + 4], "big")
    return b"fLaC\x80" + stream[5:42] + stream[place:]
