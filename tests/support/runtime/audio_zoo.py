"""Audio files of many kinds, made by FFmpeg (PyAV) and libsndfile: common files, and damaged or unfinished ones."""

import functools
import io
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

SECONDS = 2.3


class Kind(NamedTuple):
    """A kind of audio file."""

    name: str
    make: Callable[[], bytes]


@functools.cache
def speech(rate: int, channels: int = 1, seconds: float = SECONDS) -> np.ndarray:
    """Return sound (n, channels) of changing pitch and loudness, with silent parts; the channels differ a little."""
    time = np.arange(round(seconds * rate)) / rate
    loudness = np.clip(np.sin(2 * np.pi * 1.7 * time), 0.0, 1.0)
    phase = 2 * np.pi * np.cumsum(150 + 60 * np.sin(2 * np.pi * 0.8 * time)) / rate
    tone = loudness * sum(np.sin(number * phase) / number for number in range(1, 9))
    noise = np.random.default_rng(0).standard_normal((len(time), channels))
    return (0.2 * tone[:, None] * np.linspace(1.0, 0.6, channels) + 0.01 * noise).astype(np.float32)


class Pipe(io.RawIOBase):
    """An output that cannot seek, so encoders cannot go back and write the lengths."""

    def __init__(self) -> None:
        self.content = bytearray()

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def write(self, data) -> int:
        self.content += bytes(data)
        return len(data)


@functools.cache
def encoded(
    container: str, codec: str, rate: int, channels: int = 1, to_pipe: bool = False, vbr: bool = False
) -> bytes:
    """Return a file written by FFmpeg; with `to_pipe`, its header does not state the length."""
    import av

    target = Pipe() if to_pipe else io.BytesIO()
    layout = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1", 16: "9.1.6"}[channels]
    fragments = {"movflags": "frag_keyframe+empty_moov"} if container == "mp4" and to_pipe else {}
    with av.open(target, "w", format=container, container_options=fragments) as output:
        stream = output.add_stream(
            codec, rate=rate, layout=layout, options={"compression_level": "2", "q": "4"} if vbr else {}
        )
        if codec.startswith("wma"):
            stream.bit_rate = 64000
        frame = av.AudioFrame.from_ndarray(speech(rate, channels).reshape(1, -1), "flt", layout)
        frame.sample_rate = rate
        context = stream.codec_context
        context.open()
        resampler = av.AudioResampler(context.format, context.layout, rate, context.frame_size or 1024)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            for packet in stream.encode(piece):
                output.mux(packet)
        for packet in stream.encode(None):
            output.mux(packet)
    return bytes(target.content) if isinstance(target, Pipe) else target.getvalue()


@functools.cache
def written(container: str, subtype: str | None, rate: int, channels: int = 1) -> bytes:
    """Return a file written by libsndfile."""
    file = io.BytesIO()
    soundfile.write(file, speech(rate, channels), rate, format=container, subtype=subtype)
    return file.getvalue()


def with_sizes(wav: bytes, size: int) -> bytes:
    """Return the WAV file with this size of its samples in the header."""
    place = wav.index(b"data") + 4
    return wav[:4] + struct.pack("<I", size) + wav[8:place] + struct.pack("<I", size) + wav[place + 4 :]


def without_notes(mp3: bytes) -> bytes:
    """Return an mp3 file without its first frame, in which encoders store the number of frames."""
    tag = 10 + int.from_bytes(mp3[6:10], "big") if mp3[:3] == b"ID3" else 0
    assert b"Xing" in mp3[tag : tag + 64] or b"Info" in mp3[tag : tag + 64]
    return mp3[mp3.index(mp3[tag : tag + 2], tag + 3) :]


def kinds() -> Iterator[Kind]:
    """Yield kinds of files that should be read whole, or refused."""
    for subtype in ("PCM_16", "PCM_24", "PCM_32", "PCM_U8", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM"):
        for rate, channels in ((16000, 1), (44100, 2)):
            yield Kind(
                f"wav {subtype} {rate} x{channels}", lambda s=subtype, r=rate, c=channels: written("WAV", s, r, c)
            )
    for container, subtype in (
        ("WAVEX", "PCM_24"), ("RF64", "PCM_16"), ("W64", "PCM_16"), ("AIFF", "PCM_16"), ("AU", "PCM_16"),
        ("CAF", "PCM_16"), ("NIST", "PCM_16"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"),
        ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"),
    ):  # fmt: skip
        yield Kind(f"{container} {subtype}", lambda k=container, s=subtype: written(k, s, 16000, 2))
    for size in (0, 0x7FFFFFFF, 0xFFFFFFFF, 10**9):
        yield Kind(f"wav, states {size}", lambda n=size: with_sizes(written("WAV", "PCM_16", 16000), n))
        yield Kind(f"wav float, states {size}", lambda n=size: with_sizes(written("WAV", "FLOAT", 16000), n))
        yield Kind(f"wav adpcm, states {size}", lambda n=size: with_sizes(written("WAV", "IMA_ADPCM", 16000), n))
    for container, codec, rate, channels in (
        ("wav", "pcm_s16le", 16000, 1), ("wav", "pcm_s24le", 48000, 2), ("wav", "pcm_mulaw", 8000, 1),
        ("wav", "libmp3lame", 44100, 2), ("wav", "adpcm_ima_wav", 16000, 1),
        ("flac", "flac", 16000, 1), ("flac", "flac", 48000, 2), ("ogg", "libopus", 48000, 1),
        ("ogg", "libopus", 48000, 2), ("mp3", "libmp3lame", 16000, 1),
        ("mp3", "libmp3lame", 44100, 2), ("mp3", "libmp3lame", 8000, 1), ("mp2", "mp2", 48000, 2),
        ("ipod", "aac", 48000, 1), ("mp4", "aac", 16000, 2), ("mp4", "alac", 44100, 2), ("adts", "aac", 44100, 1),
        ("webm", "libopus", 48000, 1), ("matroska", "aac", 44100, 2), ("matroska", "pcm_s16le", 16000, 1),
        ("asf", "wmav2", 44100, 2), ("amr", "libopencore_amrnb", 8000, 1), ("aiff", "pcm_s16be", 16000, 1),
        ("au", "pcm_s16be", 16000, 1), ("caf", "alac", 16000, 1), ("wv", "wavpack", 16000, 1),
        ("mpegts", "aac", 48000, 2), ("asf", "wmav1", 16000, 1),
        ("matroska", "ac3", 48000, 6), ("flv", "aac", 44100, 1), ("tta", "tta", 16000, 1),
    ):  # fmt: skip
        for to_pipe in (False, True):
            if to_pipe and container in ("ipod", "mp4", "caf", "tta"):
                continue
            yield Kind(
                f"{container} {codec} {rate} x{channels}{' to a pipe' * to_pipe}",
                lambda a=(container, codec, rate, channels, to_pipe): encoded(*a),
            )
    # `speech(16000)` through Debian's `speexenc -w --quality 4 --comp 5`: neither FFmpeg nor libsndfile writes Speex.
    yield Kind("ogg speex 16000 x1", Path(__file__).with_name("speech.spx").read_bytes)
    yield Kind("mp4 in fragments", lambda: encoded("mp4", "aac", 16000, 1, True))
    for rate, channels in ((16000, 1), (44100, 2)):
        yield Kind(f"vbr mp3 {rate}", lambda r=rate, c=channels: encoded("mp3", "libmp3lame", r, c, False, True))
        yield Kind(
            f"vbr mp3 {rate} without notes",
            lambda r=rate, c=channels: without_notes(encoded("mp3", "libmp3lame", r, c, False, True)),
        )
        yield Kind(f"mp3 {rate} after garbage", lambda r=rate: bytes(700) + encoded("mp3", "libmp3lame", r))


def joined() -> Iterator[tuple[str, list[Kind]]]:
    """Yield the name and the parts of each joined file."""
    wav, flac = ("WAV", "PCM_16"), ("FLAC", "PCM_16")
    for name, parts in (
        ("wav", [(*wav, 16000, 1), (*wav, 16000, 2)]),
        ("wav of two rates", [(*wav, 16000, 1), (*wav, 8000, 1)]),
        ("flac", [(*flac, 16000, 1), (*flac, 16000, 1)]),
        ("flac of two rates", [(*flac, 16000, 1), (*flac, 8000, 1)]),
        ("mp3", [("MP3", None, 16000, 1)] * 3),
        ("mp3, then stereo", [("MP3", None, 44100, 1), ("MP3", None, 44100, 2)]),
        ("mp3 of two rates", [("MP3", None, 16000, 1), ("MP3", None, 44100, 1)]),
        ("vorbis", [("OGG", "VORBIS", 16000, 1)] * 2),
        ("vorbis, then stereo", [("OGG", "VORBIS", 16000, 1), ("OGG", "VORBIS", 16000, 2)]),
        ("vorbis of two rates", [("OGG", "VORBIS", 16000, 1), ("OGG", "VORBIS", 8000, 1)]),
        ("opus", [("OGG", "OPUS", 48000, 1)] * 2),
        ("opus, then stereo", [("OGG", "OPUS", 48000, 1), ("OGG", "OPUS", 48000, 2)]),
        ("vorbis and opus", [("OGG", "VORBIS", 48000, 1), ("OGG", "OPUS", 48000, 1)]),
    ):
        yield name, [Kind(name, lambda p=part: written(*p)) for part in parts]
