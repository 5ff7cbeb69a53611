"""A microphone without hardware: a PulseAudio daemon whose null sink is heard through ALSA. Knows no model and no command."""

import importlib.util
import os
import shutil
import signal
import subprocess
import time
from ctypes.util import find_library
from pathlib import Path

RATE = 44100    # what PortAudio takes for the native rate of ALSA's plugin; the sink has it too, so samples stay exact
_ALSA = "/usr/share/alsa/alsa.conf"
_ALSA_PLUGIN = "/usr/lib/*/alsa-lib/libasound_module_pcm_pulse.so"
_DEVICE = """<{alsa}>
pcm.!default {{ type pulse }}
ctl.!default {{ type pulse }}
"""


def missing() -> str | None:
    """What this machine lacks, as a person would install it."""
    lacking = [program for program in ("pulseaudio", "paplay", "pactl") if shutil.which(program) is None]
    lacking += [library for library in ("portaudio", "asound") if find_library(library) is None]
    lacking += [] if any(Path("/").glob(_ALSA_PLUGIN[1:])) else ["libasound2-plugins"]
    lacking += [] if importlib.util.find_spec("sounddevice") else ["the Python package sounddevice"]
    if not lacking:
        return None
    return (f"no virtual microphone without {', '.join(lacking)}: apt-get install pulseaudio pulseaudio-utils "
            "libportaudio2 libasound2-plugins; pip install sounddevice")


class VirtualMicrophone:
    """A daemon of its own, alive within `with` and 120 seconds at most; `environment` leads programs to it.

    Args:
        folder: is made, for what the daemon writes.
        background: a recording that is heard all the time, under what is played: a room.
    """

    def __init__(self, folder: Path, background: Path) -> None:
        folder.mkdir(mode=0o700)
        self._background = background
        self._socket, self._log = folder / "socket", folder / "log"
        config = folder / "asound.conf"
        config.write_text(_DEVICE.format(alsa=_ALSA), encoding="ascii")
        self.environment = os.environ | {
            "HOME": str(folder), "XDG_RUNTIME_DIR": str(folder), "PULSE_RUNTIME_PATH": str(folder),
            "PULSE_SERVER": f"unix:{self._socket}", "ALSA_CONFIG_PATH": str(config),
        }

    def play(self, path: Path) -> None:
        """Speak a recording into the microphone, after and before a moment of the background."""
        time.sleep(0.3)
        subprocess.run(["paplay", str(path)], env=self.environment, timeout=60, check=True)
        time.sleep(0.3)    # the sink's buffer

    def kill(self) -> None:
        """The daemon is gone, as a device that was unplugged."""
        self._daemon.send_signal(signal.SIGTERM)
        self._daemon.wait(timeout=10)

    def __enter__(self) -> "VirtualMicrophone":
        command = [
            "timeout", "120", "pulseaudio", "-n", "--daemonize=no", "--use-pid-file=no", "--exit-idle-time=-1",
            "--disallow-exit", "-L", f"module-native-protocol-unix socket={self._socket} auth-anonymous=1",
            "-L", f"module-null-sink sink_name=speech norewinds=1 rate={RATE} channels=1 format=s16le",
        ]
        with open(self._log, "wb") as log:
            self._daemon = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while subprocess.run(["pactl", "info"], env=self.environment, capture_output=True, timeout=10).returncode:
            assert self._daemon.poll() is None and time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.05)
        self._room = subprocess.Popen(
            ["timeout", "120", "paplay", str(self._background)], env=self.environment, stderr=subprocess.DEVNULL)
        return self

    def __exit__(self, *error: object) -> None:
        self._room.terminate()
        self._room.wait(timeout=10)
        if self._daemon.poll() is None:
            self.kill()
