"""The part of sounddevice that the runtime uses, without PortAudio."""

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

BAD_CHANNELS, BAD_RATE, UNAVAILABLE, HOST_ERROR = -9998, -9997, -9985, -9999
HOSTS = ("ALSA", "JACK")


class PortAudioError(Exception):
    """The error that sounddevice raises, with message and code."""

    def __str__(self) -> str:
        return f"{self.args[0]} [PaErrorCode {self.args[1]}]"


def record(name: str, inputs: int = 1, rate: float = 48000.0, host: int = 0) -> dict[str, Any]:
    """Return an entry of `query_devices`."""
    return {
        "name": name,
        "hostapi": host,
        "max_input_channels": inputs,
        "max_output_channels": 2,
        "default_samplerate": rate,
    }


class FakeSoundDevice:
    """A fake of the module sounddevice, for sys.modules.

    Args:
        devices: results of `record`.
        default: index of the default input device.
        refuses: returns PortAudio's error code for (rate, channels), or None.
        plays: feeds samples to an opened stream; runs in a thread of its own.
    """

    PortAudioError = PortAudioError

    def __init__(
        self,
        *devices: dict[str, Any],
        default: int = 0,
        refuses: Callable[[float, int], int | None] = lambda *_: None,
        plays: Callable[["FakeStream"], None] = lambda _: None,
    ) -> None:
        self.streams: list[FakeStream] = []
        self.default = SimpleNamespace(device=[default, -1])
        self.refuses, self.plays = refuses, plays
        self._devices = devices

    def query_devices(self) -> list[dict[str, Any]]:
        return list(self._devices)

    def query_hostapis(self) -> list[dict[str, Any]]:
        return [{"name": name} for name in HOSTS]

    def RawInputStream(
        self, samplerate: float, device: int, channels: int, dtype: str, callback: Callable[..., None]
    ) -> "FakeStream":
        code = self.refuses(samplerate, channels)
        if code is not None:
            raise PortAudioError("Error opening RawInputStream: cause", code)
        assert dtype == "int16"
        self.streams.append(FakeStream(samplerate, device, channels, callback, self.plays))
        return self.streams[-1]


class FakeStream:
    """A stream; the caller of `deliver` acts as PortAudio's thread."""

    def __init__(
        self,
        rate: float,
        device: int,
        channels: int,
        callback: Callable[..., None],
        plays: Callable[["FakeStream"], None],
    ) -> None:
        self.rate, self.device, self.channels = rate, device, channels
        self.active = self.closed = False
        self._callback, self._plays = callback, plays

    def start(self) -> None:
        self.active = True
        threading.Thread(target=self._plays, args=(self,), daemon=True).start()

    def close(self, ignore_errors: bool) -> None:
        self.active, self.closed = False, True

    def deliver(self, samples: np.ndarray, overflow: bool = False, age: float = 0.0) -> None:
        """Deliver samples (n, channels); the last one is `age` seconds old."""
        now = 1000.0
        clock = SimpleNamespace(currentTime=now, inputBufferAdcTime=now - age - len(samples) / self.rate)
        # PortAudio's memory is valid within the callback only.
        memory = bytearray(samples.astype(np.int16).tobytes())
        self._callback(memory, len(samples), clock, SimpleNamespace(input_overflow=overflow))
        memory[:] = bytes(len(memory))
