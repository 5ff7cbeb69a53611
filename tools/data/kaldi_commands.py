"""Run the commands in Kaldi's wav.scp (lines that end in "|") and store the audio that they write."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

from wenet_fusion_runtime.files import printable

from wenet_fusion.data.progress_bar import progress_bar

_TIMEOUT = 600.0  # of one command, in seconds


def run_commands(commands: Mapping[str, str], folder: Path, num_workers: int) -> tuple[dict[str, str], dict[str, str]]:
    """Run commands and store their standard output in files in `folder`.

    Args:
        commands: commands by recording, with their "|" at the end.
        folder: folder for the files; created if it is missing.
        num_workers: number of commands that run at the same time.

    Returns:
        The path of each recording's file; and, for each recording whose command failed, the reason.
    """
    folder.mkdir(parents=True, exist_ok=True)
    places = {key: folder / f"{quote(key, safe='')}.audio" for key in commands}
    with ThreadPoolExecutor(num_workers) as pool:
        results = pool.map(lambda key: _run(commands[key], places[key]), commands)
        failures = dict(zip(commands, progress_bar(results, len(commands), "commands", "rec", leave=False)))
    paths = {key: str(place) for key, place in places.items() if not failures[key]}
    return paths, {key: reason for key, reason in failures.items() if reason}


def _run(command: str, place: Path) -> str:
    """Run a command and store its output in `place`. Return the reason if it fails, otherwise an empty string."""
    shell = ["bash", "-o", "pipefail", "-c", command.rstrip().removesuffix("|")]
    part = place.with_name(place.name + ".part")
    try:
        with open(part, "wb") as output:
            done = subprocess.run(
                shell, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.PIPE, timeout=_TIMEOUT, check=False
            )
        if done.returncode or not part.stat().st_size:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            problem = f"ended with status {done.returncode}" if done.returncode else "wrote nothing"
            return printable(f"the command {problem} ({command}){f': {said[-1]}' if said else ''}")
        os.replace(part, place)
        return ""
    except subprocess.TimeoutExpired:
        return printable(f"the command did not end within {_TIMEOUT:g} s ({command})")
    finally:
        part.unlink(missing_ok=True)
