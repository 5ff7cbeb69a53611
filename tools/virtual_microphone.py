#!/usr/bin/env python3
"""Run a command with a virtual microphone that plays recordings.

A PulseAudio daemon plays into a null sink, whose monitor is the command's default ALSA device.
"""

import argparse
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from ctypes.util import find_library
from pathlib import Path

import numpy as np
import soundfile
from wenet_fusion_runtime.audio.reader import AudioReader
from wenet_fusion_runtime.console import run_main

RATE = 44100  # sample rate of ALSA's plugin and of the sink, so that nothing is resampled between them
_ALSA = "/usr/share/alsa/alsa.conf"
_ALSA_PLUGIN = "/usr/lib/*/alsa-lib/libasound_module_pcm_pulse.so"
_DEVICE = """<{alsa}>
pcm.!default {{ type pulse }}
ctl.!default {{ type pulse }}
"""


def missing() -> str | None:
    """Return a message about the missing requirements and how to install them; None if nothing is missing."""
    lacking = [program for program in ("pulseaudio", "paplay", "pactl") if shutil.which(program) is None]
    lacking += [library for library in ("portaudio", "asound") if find_library(library) is None]
    lacking += [] if any(Path("/").glob(_ALSA_PLUGIN[1:])) else ["libasound2-plugins"]
    lacking += [] if importlib.util.find_spec("sounddevice") else ["the Python package sounddevice"]
    if not lacking:
        return None
    return (
        f"no virtual microphone without {', '.join(lacking)}: apt-get install pulseaudio pulseaudio-utils "
        "libportaudio2 libasound2-plugins; pip install sounddevice"
    )


def write_room(path: Path, seconds: float, level: float = 0.0005) -> Path:
    """Write faint noise with standard deviation `level` instead of digital silence, which a model may take for the end
    of a word.
    """
    noise = level * np.random.default_rng(0).standard_normal(round(seconds * RATE))
    soundfile.write(path, noise, RATE, subtype="PCM_16")
    return path


class VirtualMicrophone:
    """A PulseAudio daemon that runs within the `with` block, for `seconds` at most. Programs use it if they run with
    `environment`.

    Args:
        folder: folder to create for the daemon's files.
        background: a recording that plays all the time, mixed with the others.
    """

    def __init__(self, folder: Path, background: Path, seconds: float = 120.0) -> None:
        folder.mkdir(mode=0o700)
        self._background, self._limit = background, ["timeout", str(seconds)]
        self._socket, self._log = folder / "socket", folder / "log"
        config = folder / "asound.conf"
        config.write_text(_DEVICE.format(alsa=_ALSA), encoding="ascii")
        self.environment = os.environ | {
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": str(folder),
            "PULSE_RUNTIME_PATH": str(folder),
            "PULSE_SERVER": f"unix:{self._socket}",
            "ALSA_CONFIG_PATH": str(config),
        }

    def play(self, path: Path) -> None:
        """Play a recording into the microphone, with 0.3 s of background before and after it."""
        time.sleep(0.3)
        subprocess.run([*self._limit, "paplay", str(path)], env=self.environment, check=True)
        time.sleep(0.3)  # the sink's buffer

    def kill(self) -> None:
        """End the daemon, as if the device were unplugged."""
        self._daemon.send_signal(signal.SIGTERM)
        self._daemon.wait(timeout=10)

    def wait_for_listener(self, process: subprocess.Popen, seconds: float = 60.0) -> bool:
        """Wait until a program records; return False if `process` ends first or `seconds` have passed."""
        deadline = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < deadline:
            command = ["pactl", "list", "short", "source-outputs"]
            if subprocess.run(command, env=self.environment, capture_output=True, timeout=10).stdout:
                return True
            time.sleep(0.1)
        return False

    def __enter__(self) -> "VirtualMicrophone":
        command = [
            *self._limit,
            "pulseaudio",
            "-n",
            "--daemonize=no",
            "--use-pid-file=no",
            "--exit-idle-time=-1",
            "--disallow-exit",
            "-L",
            f"module-native-protocol-unix socket={self._socket} auth-anonymous=1",
            "-L",
            f"module-null-sink sink_name=speech norewinds=1 rate={RATE} channels=1 format=s16le",
        ]
        with open(self._log, "wb") as log:
            self._daemon = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while subprocess.run(["pactl", "info"], env=self.environment, capture_output=True, timeout=10).returncode:
            assert self._daemon.poll() is None and time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.05)
        self._room = subprocess.Popen(
            [*self._limit, "paplay", str(self._background)], env=self.environment, stderr=subprocess.DEVNULL
        )
        return self

    def __exit__(self, *error: object) -> None:
        self._room.terminate()
        self._room.wait(timeout=10)
        if self._daemon.poll() is None:
            self.kill()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see --help."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        usage="%(prog)s [--gap SECONDS] --play FILE... -- COMMAND...",
        epilog="After the last recording, COMMAND gets Ctrl-C. Needs Linux. The tool starts its own PulseAudio daemon "
        "and also works as root.",
    )
    parser.add_argument(
        "--play", nargs="+", type=Path, required=True, metavar="FILE", help="recordings to play, one after another"
    )
    parser.add_argument(
        "--gap", type=float, default=1.6, metavar="SECONDS", help="pause after each recording (default: %(default)s)"
    )
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="e.g. wenet-fusion-runtime mic final.zip")
    args = parser.parse_args(arguments)
    if reason := missing():
        raise OSError(reason)
    seconds = 120.0
    for path in args.play:
        with AudioReader(path) as reader:
            seconds += reader.seconds + args.gap
    with tempfile.TemporaryDirectory() as name:
        room = write_room(Path(name) / "room.wav", seconds)
        with VirtualMicrophone(Path(name) / "pulse", room, seconds) as microphone:
            process = subprocess.Popen(args.command, env=microphone.environment)
            if microphone.wait_for_listener(process):
                for path in args.play:
                    microphone.play(path)
                    time.sleep(args.gap)
            process.send_signal(signal.SIGINT)
            return process.wait(timeout=60)


if __name__ == "__main__":
    run_main(main)
