"""The argument that lists input devices and ends the command."""

from __future__ import annotations

import argparse

from wenet_fusion_runtime.audio.microphone import PIPE_FORM, input_devices
from wenet_fusion_runtime.console import USER_ERRORS


class ListDevices(argparse.Action):
    """Prints the input devices and exits during parsing, like --help.

    >>> parser = argparse.ArgumentParser()
    >>> parser.add_argument("--list_devices", action=ListDevices).nargs
    0
    """

    def __init__(self, option_strings: list[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(
        self, parser: argparse.ArgumentParser, options: argparse.Namespace, values: object, flag: str | None = None
    ) -> None:
        try:
            devices = input_devices()
        except USER_ERRORS as error:
            parser.exit(1, f"error: {error}\n")
        width = max([len(device.name) for device in devices], default=0)
        for device in devices:
            mark = "*" if device.is_default else " "
            channels = f"{device.channels} channel{'s' * (device.channels > 1)}"
            rate = f"{device.sample_rate:>6} Hz"
            print(f"{mark}{device.number:>3}  {device.name:<{width}}  {rate}  {channels:>11}  {device.host}")
        parser.exit(0, "* is the default\n" if devices else f"no input devices; read audio from a pipe: {PIPE_FORM}\n")
