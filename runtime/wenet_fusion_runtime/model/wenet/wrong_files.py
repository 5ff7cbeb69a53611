"""Identify files and folders that users mistake for a model, and say what to do with them."""

from __future__ import annotations

import contextlib
import tarfile
import zipfile
import zlib
from pathlib import Path

_TRAIN_YAML = "train.yaml"
_WENET_KEYS, _ICEFALL_KEYS = (b"ctc.ctc_lo", b"encoder.global_cmvn"), (b"joiner.", b"encoder_embed.")
_VOSK = "is a Vosk (Kaldi) model, which this runtime does not run: use vosk-api, or give an end-to-end model"
_NEMO = (
    "is a NeMo model, which this runtime does not run: transcribe with NeMo, or export it for sherpa-onnx and run it "
    "there"
)
_ICEFALL = (
    "is a model of icefall, which this runtime does not run: use sherpa-onnx with the files that icefall's export-onnx "
    "scripts write"
)
_MAX_PICKLE_BYTES = 32 << 20


def export_command(folder: Path, checkpoint: str) -> str:
    """Return the command that exports a checkpoint with WeNet.

    >>> export_command(Path("exp"), "avg_30.pt")
    'python wenet/bin/export_jit.py --config exp/train.yaml --checkpoint exp/avg_30.pt --output_file exp/final.zip'
    """
    return (
        f"python wenet/bin/export_jit.py --config {folder / _TRAIN_YAML} --checkpoint {folder / checkpoint} "
        f"--output_file {folder / 'final.zip'}"
    )


def explain_folder(folder: Path) -> str:
    """Return a message about a folder without an exported model: what it is, and what to do with it."""
    names = {path.name for path in folder.iterdir()}
    if {"am", "conf"} <= names or {"am", "graph"} <= names or (folder / "am" / "final.mdl").exists():
        return _VOSK
    checkpoints = sorted(name for name in names if name.endswith(".pt"))
    if _TRAIN_YAML in names and checkpoints:
        best = next((name for name in ("final.pt", "avg_30.pt") if name in checkpoints), checkpoints[-1])
        if any(name.startswith("step_") for name in checkpoints):
            return f"is a folder of training; export its model: wenet-fusion export {folder / best} OUT"
        return (
            "holds WeNet's checkpoints, but no exported model; export one, in the folder of the recipe: "
            f"{export_command(folder, best)}"
        )
    if any("joiner" in name and name.endswith((".onnx", ".pt")) for name in names) or "pretrained.pt" in names:
        return _ICEFALL
    if any(name.endswith(".nemo") for name in names):
        return _NEMO
    graphs = sorted(name for name in names if name.endswith(".onnx"))
    if len(graphs) == 1:
        return f"holds {graphs[0]}, but no vocabulary: put its tokens.txt beside it, or give the file with --units FILE"
    if checkpoints and not any(name.endswith(".zip") for name in names):
        return (
            f"holds {checkpoints[-1]}, but no exported model; export it with WeNet's export_jit.py, or with "
            "wenet-fusion export if wenet-fusion trained it"
        )
    return "is a directory; give the exported file in it"


def explain_checkpoint(archive: zipfile.ZipFile, pickle: str, path: Path) -> str | None:
    """Return a message about a zip of torch.save; None if it may be a checkpoint of `wenet-fusion train`.

    Args:
        archive: the open file.
        pickle: name of its data.pkl, which holds the names of the weights; it is read but not executed.
        path: path of the file.
    """
    if archive.getinfo(pickle).file_size > _MAX_PICKLE_BYTES:
        return None
    content = archive.read(pickle)
    if any(key in content for key in _ICEFALL_KEYS):
        return _ICEFALL
    # Our checkpoints hold configuration and vocabulary beside the weights; WeNet's hold the weights only.
    if all(key in content for key in _WENET_KEYS) or (_WENET_KEYS[0] in content and b"vocabulary" not in content):
        command = export_command(path.parent, path.name)
        return f"is a checkpoint of WeNet; export it, in the folder of the recipe: {command}"
    return None


def explain_script(archive: zipfile.ZipFile, code: list[str]) -> str | None:
    """Return a message about a TorchScript file without our meta.json; None if its origin is unknown.

    Args:
        archive: the open file.
        code: names of the members that hold its code.
    """
    is_icefall = any("joiner" in name or b"self.joiner" in archive.read(name) for name in code)
    return _ICEFALL if is_icefall else None


def explain_members(names: set[str]) -> str | None:
    """Return a message about a zip archive with members of these names; None if its origin is unknown."""
    return _VOSK if any(name.endswith(("am/final.mdl", "conf/mfcc.conf")) for name in names) else None


def explain_no_zip(path: Path) -> str | None:
    """Return a message about a file that is not a zip archive; None if its origin is unknown."""
    if path.suffix == ".mdl":
        return _VOSK
    for mode in ("r:", "r:gz"):  # NeMo's; reading damaged bytes as xz may ask for gigabytes of memory
        with contextlib.suppress(tarfile.TarError, OSError, EOFError, zlib.error), tarfile.open(path, mode) as archive:
            if any(member.name.endswith("model_config.yaml") for _, member in zip(range(20), archive)):
                return _NEMO
    return None
