"""The toolkit and the runtime read the same recorded speech (wav, flac, opus) at 8 and 16 kHz."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import absent
from wenet_fusion_runtime.audio.reader import AudioReader, load_audio
from wenet_fusion_runtime.audio.resampling import Resampler

from wenet_fusion.data.lists.kaldi import read_table
from wenet_fusion.data.sources import AudioSource, Utterance, read_header, read_samples


@pytest.fixture(scope="module")
def recordings(recorded_data):
    """Return path and sample rate of a recording of each kind."""
    for folder in ("fsdd/recordings", "LibriSpeech/train-clean-100", "english/dev"):
        if not (recorded_data / folder).is_dir():
            absent(f"no {folder} in {recorded_data}")
    opus = next(iter(read_table(recorded_data / "english/dev/wav.scp").values()))
    return {
        "wav": (recorded_data / "fsdd/recordings/7_jackson_0.wav", 8000),
        "flac": (min((recorded_data / "LibriSpeech/train-clean-100").rglob("*.flac")), 16000),
        "opus": (recorded_data / "english" / opus, 16000),
    }


def test_missing_recordings_fail_where_they_are_promised(monkeypatch):
    for promised, outcome in (("1", pytest.fail.Exception), ("", pytest.skip.Exception)):
        monkeypatch.setenv("WENET_FUSION_REQUIRE_DATA", promised)
        with pytest.raises(outcome, match="no digits"):
            absent("no digits")
    plain = "pytest." + "skip("
    tests = Path(__file__).parents[1].rglob("test_*.py")
    assert [path.name for path in tests if plain in path.read_text()] == [], "conftest.absent reads the promise"


def utterance(path, start=None, end=None):
    return Utterance("key", AudioSource(str(path)), "", 0.0, start, end)


@pytest.mark.parametrize("kind", ["wav", "flac", "opus"])
@pytest.mark.parametrize("rate", [8000, 16000])
def test_both_readers_give_the_same_samples(recordings, kind, rate):
    path, own_rate = recordings[kind]
    header = read_header(utterance(path))
    samples = read_samples(utterance(path), rate)
    assert samples.dtype == np.float32 and samples.ndim == 1
    np.testing.assert_allclose(samples, load_audio(path, rate), rtol=0, atol=1e-6)
    assert abs(len(samples) - header.seconds * rate) <= 2
    assert 0.01 < np.abs(samples).max() <= 1.1 and np.abs(samples.mean()) < 0.01
    assert header.sample_rate == own_rate
    if rate == own_rate:
        assert np.array_equal(samples, soundfile.read(path, dtype="float32")[0])


@pytest.mark.parametrize("kind", ["wav", "flac", "opus"])
def test_a_stream_gets_the_samples_of_training(recordings, kind):
    """Blocks of the file, resampled as they come, are the samples of a data.list."""
    path, _ = recordings[kind]
    for rate in (8000, 16000):
        with AudioReader(path) as reader:
            resampler = Resampler(reader.sample_rate, rate)
            blocks = [resampler.process(block) for block in reader.blocks(0.037)]
        blocks.append(resampler.process(np.zeros(0, np.float32), last=True))
        np.testing.assert_allclose(np.concatenate(blocks), read_samples(utterance(path), rate), rtol=0, atol=1e-6)


def test_half_the_rate_keeps_the_speech(recordings):
    """Resampling to 8 kHz keeps the energy below 3.5 kHz, and the timing."""
    path, _ = recordings["flac"]
    wide, narrow = read_samples(utterance(path), 16000), read_samples(utterance(path), 8000)
    spectrum = np.fft.rfft(wide)
    band = np.arange(len(spectrum)) * 16000 / len(wide) < 3500
    low = np.fft.irfft(spectrum * band, len(wide))[::2]
    heard = np.fft.irfft(np.fft.rfft(narrow)[: band.sum()], len(narrow))
    length = min(len(low), len(heard))
    correlation = np.corrcoef(low[:length], heard[:length])[0, 1]
    assert correlation > 0.999


def test_a_segment_is_the_same_part_of_the_whole(recordings):
    path, rate = recordings["flac"]
    whole = read_samples(utterance(path), rate)
    assert np.array_equal(read_samples(utterance(path, 0.5, 1.25), rate), whole[rate // 2 : 5 * rate // 4])
