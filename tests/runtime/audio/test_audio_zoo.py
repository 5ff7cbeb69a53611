"""Every kind of file is read completely, as FFmpeg reads it, or refused; it is never read in part without an error."""

import io
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
from support.runtime.audio_zoo import SECONDS, Kind, joined, kinds
from wenet_fusion_runtime.audio.reader import AudioReader

av = pytest.importorskip("av", reason="the zoo of audio files is made and checked by PyAV: pip install av")

TOLERANCE = 0.05  # seconds
KINDS = list(kinds())
REFUSED = {  # kinds that may be refused; every other one must be read
    "wav adpcm, states 1000000000",
    "wav, states 1000000000",
    "wav float, states 1000000000",
}


class Heard(NamedTuple):
    """The output of a decoder for a file."""

    seconds: float
    loudness: np.ndarray  # mean absolute value in each 0.1 s
    error: str | None


def loudness(samples: np.ndarray, rate: int) -> np.ndarray:
    size = rate // 10
    return np.abs(samples[: len(samples) // size * size]).reshape(-1, size).mean(axis=1)


def ours(content: bytes) -> Heard:
    blocks, rate, error = [np.zeros(0, np.float32)], 1000, None
    try:
        with AudioReader(io.BytesIO(content), "zoo") as reader:
            rate = reader.sample_rate
            for block in reader.blocks(0.3):
                blocks.append(block)
    except ValueError as caught:
        error = str(caught)
    samples = np.concatenate(blocks)
    return Heard(len(samples) / rate, loudness(samples, rate), error)


def theirs(content: bytes) -> Heard:
    """Decode with PyAV as far as possible."""
    blocks, rate, error = [np.zeros(0)], 1000, None
    try:
        with av.open(io.BytesIO(content)) as container:
            resampler = av.AudioResampler("flt", "mono")
            for frame in container.decode(audio=0):
                rate = frame.sample_rate
                data = frame.to_ndarray()
                data = data.T if frame.format.is_planar else data.reshape(-1, frame.layout.nb_channels)
                if data.dtype.kind in "iu":
                    data = data.astype(float) / 2.0 ** (8 * data.dtype.itemsize - 1) - (data.dtype.kind == "u")
                blocks.append(data.mean(axis=1))
            del resampler
    except av.FFmpegError as caught:
        error = str(caught)
    samples = np.concatenate(blocks)
    return Heard(len(samples) / rate, loudness(samples, rate), error)


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_every_kind_is_read_whole(kind: Kind) -> None:
    content = kind.make()
    found, expected = ours(content), theirs(content)
    if kind.name in REFUSED:
        assert found.error is not None and "ends too early" in found.error
        return
    assert found.error is None
    if expected.error is not None:  # libsndfile reads more
        expected = found
    assert abs(found.seconds - expected.seconds) <= TOLERANCE and abs(found.seconds - SECONDS) <= 0.2
    count = min(len(found.loudness), len(expected.loudness))
    np.testing.assert_allclose(found.loudness[:count], expected.loudness[:count], atol=0.03)


@pytest.mark.parametrize("name, parts", list(joined()), ids=[name for name, _ in joined()])
def test_joined_files_are_read_to_the_end_or_refused_there(name: str, parts: list[Kind]) -> None:
    contents = [part.make() for part in parts]
    found, alone = ours(b"".join(contents)), [ours(content) for content in contents]
    if "two rates" in name:
        assert found.error is not None and "changes from" in found.error
        assert abs(found.seconds - alone[0].seconds) <= TOLERANCE
    else:
        assert found.error is None
        assert abs(found.seconds - sum(part.seconds for part in alone)) <= TOLERANCE


def cut_off() -> Iterator[tuple[str, bytes]]:
    for kind in KINDS:
        if not any(word in kind.name for word in ("states", "44100", "garbage", "48000", "FLOAT", "DOUBLE")):
            content = kind.make()
            yield kind.name, content[: 2 * len(content) // 3]


def test_truncated_files_are_read_to_their_end_or_refused() -> None:
    for name, content in cut_off():
        found, expected = ours(content), theirs(content)
        is_same = expected.error is not None or abs(found.seconds - expected.seconds) <= TOLERANCE
        assert (found.error is not None or is_same) and found.seconds < 0.9 * SECONDS, (name, found, expected)


def test_flac_in_ogg_that_libsndfile_refuses_is_read() -> None:
    """libsndfile (1.2) reads FFmpeg's Ogg FLAC only with one channel and a low rate."""
    file = io.BytesIO()
    with av.open(file, "w", format="ogg") as container:
        stream = container.add_stream("flac", rate=48000, layout="stereo")
        noise = np.random.default_rng(0).integers(-9000, 9000, (1, 2 * 48000)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(noise, format="s16", layout="stereo")
        frame.sample_rate, frame.pts = 48000, 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    found = ours(file.getvalue())
    assert found.error is None and found.seconds == 1.0
