"""Decode formats that libsndfile does not read (AAC, WebM, WMA, Speex, AMR, ...) with PyAV, an optional package."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from wenet_fusion_runtime.audio.containers.byte_ranges import BinaryFile
from wenet_fusion_runtime.audio.containers.sound_decoders import changes_rate, ends_too_early, skip_by_reading
from wenet_fusion_runtime.audio.sample_formats import check_format

INSTALL = "pip install 'wenet-fusion-runtime[media]'"
# Formats of FFmpeg that contain audio; playlists and other formats that open further files are left out.
_FORMATS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dts,eac3,flac,flv,gsm,loas,matroska,mov,mp3,mpeg,mpegts,ogg,rm,"
    "tta,w64,wav,wv,xwma"
)
_EXACT = ("mov", "matroska")  # containers that state the exact duration of the audio
# With more planes (one per channel), PyAV up to at least 18.1 reads beyond its list of pointers and crashes.
_MOST_PLANES = 7
_TOLERANCE_SECONDS = 0.25  # largest difference between the stated duration and the audio


class MediaDecoder:
    """A `Decoder` of the first audio stream of a file that FFmpeg can read.

    Args:
        file: open, seekable binary file.
    Raises:
        ImportError: PyAV is not installed.
        ValueError: FFmpeg cannot read the file, or the file has no audio.

    >>> import io
    >>> try:
    ...     MediaDecoder(io.BytesIO(b"no audio"))
    ... except (ValueError, ImportError) as error:
    ...     print("not read")
    not read
    """

    def __init__(self, file: BinaryFile) -> None:
        av = _pyav()
        self._file, self._errors = file, av.FFmpegError
        self._packing = _Packing()
        self.frames: int | None = None
        self._count, self._format = 0, None
        try:
            options = {"format_whitelist": _FORMATS, "protocol_whitelist": "none"}
            self._container = av.open(file, mode="r", options=options, metadata_errors="replace")
        except (av.FFmpegError, EOFError) as error:
            raise ValueError(f"cannot be read as audio ({_reason(error)})") from None
        if not self._container.streams.audio:
            raise ValueError("has no audio")
        stream = self._container.streams.audio[0]
        self._stated = _stated_seconds(self._container, stream)
        self._decoded = self._container.decode(stream)
        self._rest = self._next()  # only a decoded frame states the sample rate reliably
        if self._rest is None:
            raise ValueError("has no samples")

    def read(self, count: int) -> np.ndarray:
        """See `Decoder`."""
        block = self._rest if self._rest is not None else self._next()
        self._rest = None
        if block is None:
            if self._count < (self._stated - _TOLERANCE_SECONDS) * self.sample_rate:
                raise ends_too_early(self._count, round(self._stated * self.sample_rate), self.sample_rate)
            return np.zeros((0, 1), np.float32)
        if len(block) > count:
            block, self._rest = block[:count], block[count:]
        self._count += len(block)
        return block

    def skip(self, count: int) -> None:
        """See `Decoder`."""
        skip_by_reading(self, count)

    def close(self) -> None:
        """See `Decoder`."""
        self._container.close()
        self._file.close()

    def _next(self) -> np.ndarray | None:
        """Return the samples of the next frame; None at the end."""
        while True:
            try:
                frame = next(self._decoded, None)
            except (self._errors, EOFError) as error:
                if self._format is None:
                    raise ValueError(f"cannot be read as audio ({_reason(error)})") from None
                raise ValueError(
                    f"is damaged after {self._count / self.sample_rate:.2f} s ({_reason(error)})"
                ) from None
            if frame is None:
                return None
            if self._format is None:
                check_format(frame.sample_rate, frame.layout.nb_channels)
                self._format, self.sample_rate = frame.format.name, frame.sample_rate
            if frame.sample_rate != self.sample_rate:
                raise changes_rate(self.sample_rate, frame.sample_rate, self._count)
            if frame.samples:
                return np.concatenate([_samples(packed) for packed in self._packing.frames(frame)])


class _Packing:
    """Interleaves the samples of frames that have more planes than PyAV can read."""

    def __init__(self) -> None:
        self._shape: tuple[Any, ...] = ()
        self._resampler: Any = None

    def frames(self, frame: Any) -> list[Any]:
        """Return one or more readable frames with the samples of a frame."""
        if not frame.format.is_planar or frame.layout.nb_channels <= _MOST_PLANES:
            return [frame]
        shape = frame.format.name, frame.layout.name, frame.sample_rate
        if shape != self._shape:
            self._shape, self._resampler = shape, _pyav().AudioResampler(format=frame.format.packed.name)
        frames: list[Any] = self._resampler.resample(frame)
        return frames


def _samples(frame: Any) -> np.ndarray:
    """Return a frame's samples, (n, channels)."""
    data = frame.to_ndarray()
    data = data.T if frame.format.is_planar else data.reshape(-1, frame.layout.nb_channels)
    if data.dtype == np.uint8:
        return (data.astype(np.float32) - 128.0) / 128.0
    if data.dtype in (np.int32, np.int64):
        return (data / -float(np.iinfo(data.dtype).min)).astype(np.float32)
    return data


def _stated_seconds(container: Any, stream: Any) -> float:
    """Return the stated duration of the audio in seconds; 0 if the container states none, or only an estimate."""
    if not container.format.name.startswith(_EXACT):
        return 0.0
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    return container.duration / 1e6 if container.duration is not None and len(container.streams) == 1 else 0.0


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).rstrip(".")


def _pyav() -> ModuleType:
    try:
        import av
    except ImportError:
        raise ImportError(f"this format needs PyAV: {INSTALL}") from None
    return av
