"""Choosing and opening a device, and its samples, with PortAudio replaced."""

import sys
import threading
import time

import numpy as np
import pytest
from support.runtime.fake_sounddevice import BAD_CHANNELS, BAD_RATE, HOST_ERROR, UNAVAILABLE, FakeSoundDevice, record
from wenet_fusion_runtime.audio import microphone
from wenet_fusion_runtime.audio.live_audio import AudioBlock, BlockQueue
from wenet_fusion_runtime.audio.microphone import Microphone, choose_device, input_devices


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch):
    def put(*devices: dict, **options: object) -> FakeSoundDevice:
        fake = FakeSoundDevice(*devices, **options)
        monkeypatch.setitem(sys.modules, "sounddevice", fake)
        return fake

    return put


OFFICE = (record("HDMI", inputs=0), record("Built-in Mic", 2, 44100.0), record("USB Mic"), record("usb mic", host=1))


@pytest.mark.parametrize(
    "wanted, number", [(None, 1), ("3", 3), ("2", 2), ("built", 1), ("USB", 2), ("usb mic", 2), ("BUILT-IN MIC", 1)]
)
def test_a_device_is_found(install, wanted: str | None, number: int) -> None:
    install(*OFFICE, default=1)
    assert choose_device(wanted).number == number


def test_an_exact_name_wins_over_a_part(install) -> None:
    install(record("Mic 2"), record("Mic"), default=0)
    assert choose_device("mic").number == 1


@pytest.mark.parametrize(
    "wanted, problem, listed",
    [
        (
            "0",
            "device 0 does not exist or has no input",
            "1 'Built-in Mic' (ALSA), 2 'USB Mic' (ALSA), 3 'usb mic' (JACK)",
        ),
        (
            "9",
            "device 9 does not exist or has no input",
            "1 'Built-in Mic' (ALSA), 2 'USB Mic' (ALSA), 3 'usb mic' (JACK)",
        ),
        (
            "webcam",
            "no input device has 'webcam' in the name",
            "1 'Built-in Mic' (ALSA), 2 'USB Mic' (ALSA), 3 'usb mic' (JACK)",
        ),
        (
            "mic",
            "several input devices have 'mic' in the name",
            "1 'Built-in Mic' (ALSA), 2 'USB Mic' (ALSA), 3 'usb mic' (JACK)",
        ),
        ("hdmi", "no input device has 'hdmi' in the name", "1 'Built-in"),
    ],
)
def test_a_wrong_choice_lists_the_devices(install, wanted: str, problem: str, listed: str) -> None:
    install(*OFFICE, default=1)
    with pytest.raises(ValueError) as error:
        choose_device(wanted)
    assert str(error.value).startswith(f"{problem}; choose one of: {listed}")


def test_no_device_and_no_default_are_reported(install) -> None:
    install(record("HDMI", inputs=0), default=-1)
    assert input_devices() == []
    with pytest.raises(ValueError, match="there is no input device: .* arecord"):
        choose_device()
    install(record("One"), record("Two"), default=-1)
    with pytest.raises(ValueError, match="no default input device; choose one of: 0 'One' .*, 1 'Two'"):
        choose_device()


def test_a_missing_package_is_one_instruction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(ImportError, match=r"pip install 'wenet-fusion-runtime\[microphone\]', or .* arecord"):
        input_devices()


def test_a_missing_portaudio_is_one_instruction(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    with pytest.raises(OSError, match="PortAudio library not found.*apt install libportaudio2 .* arecord"):
        input_devices()


def ramp(start: int, count: int, channels: int = 1) -> np.ndarray:
    return np.arange(start, start + count * channels).reshape(count, channels)


def test_samples_arrive_in_order_with_their_times(install) -> None:
    fake = install(record("Mic", rate=44100.0))
    with Microphone(choose_device()) as source:
        stream = fake.streams[0]
        assert (stream.rate, stream.device, stream.channels) == (44100, 0, 1)
        assert source.description == "0 'Mic' (ALSA), 44100 Hz"
        before = time.monotonic()
        stream.deliver(ramp(0, 300), age=0.25)
        stream.deliver(ramp(300, 100), age=-5.0)  # an implausible time is ignored
        after = time.monotonic()
        source.stop()
        stream.deliver(ramp(400, 100))
        blocks = list(source.blocks())
    assert np.array_equal(np.concatenate([block.samples for block in blocks]), ramp(0, 400))
    assert {(block.samples.dtype.name, block.sample_rate) for block in blocks} == {("int16", 44100)}
    assert before - 0.251 <= blocks[0].captured <= after - 0.249
    assert before <= blocks[1].captured <= after
    assert stream.closed and source.lost_seconds == 0 and source.overflows == 0


def test_a_wanted_rate_is_opened(install) -> None:
    fake = install(record("Mic", rate=44100.0))
    with Microphone(choose_device(), sample_rate=16000) as source:
        assert fake.streams[0].rate == 16000 and source.description.endswith("16000 Hz")
        blocks = source.blocks()
        times = [time.monotonic()]
        fake.streams[0].deliver(ramp(0, 8000), age=0.1)  # age of the last sample
        times.append(time.monotonic())
        fake.streams[0].deliver(ramp(0, 10), age=2.0)  # longer than any buffer, so implausible
        times.append(time.monotonic())
        first, second = next(blocks), next(blocks)
        assert times[0] - 0.101 <= first.captured <= times[1] - 0.099
        assert second.sample_rate == 16000 and times[1] <= second.captured <= times[2]


def test_overflows_are_counted(install) -> None:
    fake = install(record("Mic"))
    with Microphone(choose_device()) as source:
        for overflow in (False, True, True, False):
            fake.streams[0].deliver(ramp(0, 10), overflow)
        assert source.overflows == 2


def test_a_recogniser_that_is_too_slow_loses_one_stretch_and_it_is_counted(install) -> None:
    fake = install(record("Mic", rate=100.0))
    with Microphone(choose_device()) as source:
        for start in range(0, 1500, 50):  # 15 s; 10 s may wait
            fake.streams[0].deliver(ramp(start, 50))
        source.stop()
        kept = np.concatenate([block.samples for block in source.blocks()])[:, 0]
    assert source.lost_seconds == 10.0
    assert np.array_equal(kept, np.arange(1000, 1500))  # the newest audio, without another gap


def test_a_device_that_vanishes_is_reported_after_its_last_block(install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(microphone, "SILENT_SECONDS", 1e6)  # the state of the stream shows the end, not its silence
    fake = install(record("Mic"))
    with Microphone(choose_device()) as source:
        fake.streams[0].deliver(ramp(0, 10))
        fake.streams[0].active = False
        blocks = source.blocks()
        assert len(next(blocks).samples) == 10
        with pytest.raises(OSError, match="device 0 'Mic' .* stopped delivering audio: it was unplugged"):
            next(blocks)


def test_a_device_that_stops_without_an_error_is_reported_too(install, monkeypatch: pytest.MonkeyPatch) -> None:
    install(record("Mic"))
    monkeypatch.setattr(microphone, "SILENT_SECONDS", 0.2)
    with Microphone(choose_device()) as source, pytest.raises(OSError, match="stopped delivering audio"):
        list(source.blocks())


def test_a_device_that_refuses_mono_gives_all_its_channels(install) -> None:
    fake = install(record("Array", inputs=4), refuses=lambda rate, channels: BAD_CHANNELS if channels != 4 else None)
    with Microphone(choose_device()) as source:
        assert fake.streams[0].channels == 4 and source.description.endswith("48000 Hz, 4 channels")
        fake.streams[0].deliver(ramp(0, 7, 4))
        source.stop()
        assert np.array_equal(next(source.blocks()).samples, ramp(0, 7, 4))
    with pytest.raises(OSError, match="refuses 3 of its 4 channels"), Microphone(choose_device(), channels=3):
        pass
    with pytest.raises(ValueError, match="has 4 channels, not 5; ask for fewer"):
        Microphone(choose_device(), channels=5)


@pytest.mark.parametrize(
    "code, message",
    [
        (
            UNAVAILABLE,
            "device 0 'Mic' (ALSA) is busy or unplugged: end the program that uses it, or choose another device",
        ),
        (BAD_RATE, "device 0 'Mic' (ALSA) refuses 8000 Hz; its own rate is 48000 Hz"),
        (HOST_ERROR, "device 0 'Mic' (ALSA) cannot be opened: Error opening RawInputStream: cause [PaErrorCode -9999]"),
    ],
)
def test_refusals_are_one_message(install, code: int, message: str) -> None:
    install(record("Mic"), refuses=lambda *_: code)
    with pytest.raises(OSError) as error, Microphone(choose_device(), sample_rate=8000):
        pass
    assert str(error.value) == message


def block(start: int, count: int) -> AudioBlock:
    return AudioBlock(ramp(start, count).astype(np.int16), 100, 0.0)


def test_a_queue_that_waits_loses_nothing_and_raises_an_error_last() -> None:
    queue = BlockQueue(seconds=1.0)

    def fill() -> None:
        for start in range(0, 1000, 30):
            queue.put_when_free(block(start, 30))
        queue.close(OSError("broke"))

    thread = threading.Thread(target=fill)
    thread.start()
    time.sleep(0.05)
    assert thread.is_alive()  # it waits for room
    got = []
    with pytest.raises(OSError, match="broke"):
        while True:
            got.append(queue.get(5.0).samples)
    thread.join(5)
    assert np.array_equal(np.concatenate(got), ramp(0, 1020)) and queue.lost_seconds == 0


def test_closing_a_queue_ends_waiting_calls() -> None:
    queue = BlockQueue(seconds=1.0)
    queue.put(block(0, 100))
    thread = threading.Thread(target=queue.put_when_free, args=(block(100, 100),))
    thread.start()
    queue.close()
    thread.join(5)
    assert not thread.is_alive() and len(queue.get(1.0).samples) == 100 and queue.get(1.0) is None


def test_a_full_queue_drops_nothing_until_it_overflows() -> None:
    queue = BlockQueue(seconds=1.0)
    for start in (0, 50):
        queue.put(block(start, 50))
    assert queue.lost_seconds == 0 and len(queue.get(1.0).samples) == 50
    queue.put(block(100, 50))
    assert queue.lost_seconds == 0, "taken audio does not count as waiting"
    queue.put(block(150, 50))
    assert queue.lost_seconds == 1.0 and queue.get(1.0).samples[0] == 150


def test_an_error_is_raised_once() -> None:
    queue = BlockQueue()
    queue.close(OSError("broke"))
    with pytest.raises(OSError, match="broke"):
        queue.get(1.0)
    assert queue.get(1.0) is None


def test_a_block_longer_than_the_queue_passes() -> None:
    queue = BlockQueue(seconds=1.0)
    queue.put_when_free(block(0, 500))
    assert len(queue.get(1.0).samples) == 500
    queue.put(block(0, 500))
    assert len(queue.get(1.0).samples) == 500 and queue.lost_seconds == 0
