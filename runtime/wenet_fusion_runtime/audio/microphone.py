"""List input devices, choose one, and capture audio from it with PortAudio."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from types import ModuleType, TracebackType
from typing import Any, NamedTuple

import numpy as np

from wenet_fusion_runtime.audio.live_audio import AudioBlock, BlockQueue
from wenet_fusion_runtime.audio.pcm_pipe import ARECORD
from wenet_fusion_runtime.audio.sample_formats import MAX_CHANNELS
from wenet_fusion_runtime.console import unusable_package

POLL_SECONDS = 0.1
SILENT_SECONDS = 5.0  # a device that delivers no block for this long counts as unplugged
PIPE_FORM = f"{ARECORD} | wenet-fusion-runtime mic MODEL --input -"
# PortAudio's documented error codes.
_BAD_CHANNELS, _BAD_RATE, _UNAVAILABLE = -9998, -9997, -9985


class Device(NamedTuple):
    """An input device.

    >>> print(Device(2, "USB Mic", "ALSA", channels=1, sample_rate=48000, is_default=False))
    2 'USB Mic' (ALSA)
    """

    number: int  # PortAudio's index
    name: str
    host: str  # the system's audio interface: ALSA, Core Audio, Windows WASAPI, ...
    channels: int  # largest number of channels
    sample_rate: int  # Hz, native
    is_default: bool

    def __str__(self) -> str:
        return f"{self.number} '{self.name}' ({self.host})"


def input_devices() -> list[Device]:
    """Return the devices that can capture, ordered by number; the list may be empty.

    Raises:
        ImportError: sounddevice is not installed.
        OSError: PortAudio is missing or does not start.
    """
    portaudio = _portaudio()
    hosts = portaudio.query_hostapis()
    default = portaudio.default.device[0]
    return [
        Device(
            index,
            record["name"],
            hosts[record["hostapi"]]["name"],
            record["max_input_channels"],
            round(record["default_samplerate"]),
            index == default,
        )
        for index, record in enumerate(portaudio.query_devices())
        if record["max_input_channels"] > 0
    ]


def choose_device(wanted: str | None = None) -> Device:
    """Return the input device that the user names.

    If several audio interfaces of the system offer devices with this name, the interface of the default device is used.

    Args:
        wanted: the device's number, a part of its name in any case, or None for the default device.
    Raises:
        ImportError, OSError: see `input_devices`.
        ValueError: no device or several devices match; the message lists them.
    """
    devices = input_devices()
    if not devices:
        raise ValueError(
            "there is no input device: connect a microphone or start the sound server (containers and remote "
            f"machines have none), or read audio from a pipe: {PIPE_FORM}"
        )
    if wanted is None:
        found = [device for device in devices if device.is_default]
        return _only(found, devices, "there is no default input device")
    if wanted.isdecimal():
        found = [device for device in devices if device.number == int(wanted)]
        return _only(found, devices, f"device {wanted} does not exist or has no input")
    part = wanted.casefold()
    fitting = [device for device in devices if part in device.name.casefold()]
    found = [device for device in fitting if device.name.casefold() == part] or fitting
    default_host = next((device.host for device in devices if device.is_default), None)
    found = [device for device in found if device.host == default_host] or found
    count = "several input devices have" if found else "no input device has"
    return _only(found, fitting or devices, f"{count} '{wanted}' in the name")


class Microphone:
    """A `LiveAudio` that captures from an input device, which is open within the `with` block.

    Args:
        device: the device; see `choose_device`.
        sample_rate: Hz; None uses the device's native rate, which is best, because streams resample.
        channels: number of channels to open; None opens one, or all if the device refuses one. Streams average them.
    Raises:
        ImportError: see `input_devices`.
        ValueError: the device has fewer channels.
        OSError: see `input_devices`; on entry also if the device is busy, unplugged, or refuses the format.

    >>> with Microphone(choose_device("usb")) as microphone:  # doctest: +SKIP
    ...     for block in microphone.blocks():
    ...         stream.accept_waveform(block.samples, block.sample_rate)
    """

    def __init__(self, device: Device, sample_rate: int | None = None, channels: int | None = None) -> None:
        if channels is not None and channels > device.channels:
            raise ValueError(f"device {device} has {device.channels} channels, not {channels}; ask for fewer")
        self._device = device
        self._sample_rate = sample_rate or device.sample_rate
        self._channels = channels or 1
        self._may_open_all = channels is None and 1 < device.channels <= MAX_CHANNELS
        self._portaudio = _portaudio()
        self._queue = BlockQueue()
        self._stream: Any = None
        self.overflows = 0

    @property
    def description(self) -> str:
        """Device, sample rate, and the number of channels if there are several."""
        channels = "" if self._channels == 1 else f", {self._channels} channels"
        return f"{self._device}, {self._sample_rate} Hz{channels}"

    @property
    def lost_seconds(self) -> float:
        """See `LiveAudio`."""
        return self._queue.lost_seconds

    def blocks(self) -> Iterator[AudioBlock]:
        """Yield blocks until `stop` is called; see `LiveAudio`. Raises OSError if the device stops delivering."""
        last = time.monotonic()
        while True:
            block = self._queue.get(POLL_SECONDS)
            if block is not None:
                last = time.monotonic()
                yield block
            elif self._queue.closed:
                return
            elif not self._stream.active or time.monotonic() - last > SILENT_SECONDS:
                raise OSError(
                    f"device {self._device} stopped delivering audio: it was unplugged, or the sound server ended"
                )

    def stop(self) -> None:
        """Stop capturing."""
        self._queue.close()

    def __enter__(self) -> Microphone:
        try:
            self._stream = self._open()
        except self._portaudio.PortAudioError as error:
            if _code(error) != _BAD_CHANNELS or not self._may_open_all:
                raise OSError(self._refusal(error)) from None
            self._channels = self._device.channels
            try:
                self._stream = self._open()
            except self._portaudio.PortAudioError as second:
                raise OSError(self._refusal(second)) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.close()
        self._stream.close(ignore_errors=True)

    def _open(self) -> Any:
        stream = self._portaudio.RawInputStream(
            samplerate=self._sample_rate,
            device=self._device.number,
            channels=self._channels,
            dtype="int16",
            callback=self._capture,
        )
        try:
            stream.start()
        except self._portaudio.PortAudioError:
            stream.close(ignore_errors=True)
            raise
        return stream

    def _capture(self, data: Any, count: int, clock: Any, flags: Any) -> None:
        """Queue a captured block; PortAudio's thread calls this, so it must not wait."""
        if flags.input_overflow:
            self.overflows += 1
        samples = np.frombuffer(bytes(data), dtype=np.int16).reshape(count, self._channels)
        # Some systems report no capture time, or a wrong one.
        age = clock.currentTime - clock.inputBufferAdcTime - count / self._sample_rate
        self._queue.put(AudioBlock(samples, self._sample_rate, time.monotonic() - (age if 0.0 < age < 1.0 else 0.0)))

    def _refusal(self, error: Exception) -> str:
        code, name = _code(error), f"device {self._device}"
        if code == _BAD_RATE:
            return f"{name} refuses {self._sample_rate} Hz; its own rate is {self._device.sample_rate} Hz"
        if code == _BAD_CHANNELS:
            return f"{name} refuses {self._channels} of its {self._device.channels} channels"
        if code == _UNAVAILABLE:
            return f"{name} is busy or unplugged: end the program that uses it, or choose another device"
        return f"{name} cannot be opened: {error}"


def _only(found: Sequence[Device], candidates: Sequence[Device], problem: str) -> Device:
    if len(found) != 1:
        raise ValueError(f"{problem}; choose one of: {', '.join(str(device) for device in candidates)}")
    return found[0]


def _code(error: Exception) -> int | None:
    return error.args[1] if len(error.args) > 1 else None


def _portaudio() -> ModuleType:
    """Import sounddevice, which starts PortAudio."""
    remedy = f"or read audio from a pipe: {PIPE_FORM}"
    try:
        import sounddevice
    except ImportError as error:
        missing = (
            "capturing from a device needs the package sounddevice: pip install "
            f"'wenet-fusion-runtime[microphone]', {remedy}"
        )
        raise unusable_package("sounddevice", missing, error) from None
    except Exception as error:  # OSError if the library is missing, PortAudioError if it does not start
        raise OSError(
            f"sounddevice cannot use PortAudio ({error}): install it (apt install libportaudio2 "
            f"libasound2-plugins, dnf install portaudio), {remedy}"
        ) from None
    return sounddevice
