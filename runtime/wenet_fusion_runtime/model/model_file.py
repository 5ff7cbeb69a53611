"""Open exported files: identify their kind, read their metadata, load them with the right backend."""

from __future__ import annotations

import zipfile
from pathlib import Path

from wenet_fusion_runtime.files import parse_json
from wenet_fusion_runtime.model.acoustic_model import AcousticModel
from wenet_fusion_runtime.model.archive_members import DAMAGE, read_member
from wenet_fusion_runtime.model.backends import AUTO, load_backend
from wenet_fusion_runtime.model.metadata import ONNX, TORCHSCRIPT, Meta, parse_meta
from wenet_fusion_runtime.model.onnx_backend import STEP
from wenet_fusion_runtime.model.wenet.wenet_files import find_model_files, model_paths
from wenet_fusion_runtime.model.wenet.wenet_loading import load_wenet
from wenet_fusion_runtime.model.wenet.wrong_files import (
    explain_checkpoint,
    explain_members,
    explain_no_zip,
    explain_script,
)

META = "meta.json"
MAX_META_BYTES = 16 << 20  # a vocabulary of a million tokens fits
_EXPORT = "export it first: wenet-fusion export CHECKPOINT OUT"
_ONNX_STARTS = (b"\x12", b"\x3a")  # the byte after an ONNX model's version: a producer or a graph follows


def read_meta(path: str | Path, units: str | Path | None = None) -> Meta:
    """Read the metadata of an exported file. Only WeNet's models are loaded for this, with torch or onnxruntime.

    Args:
        path: see `load_model`.
        units: see `load_model`.
    Raises:
        OSError: the path is missing, a directory without a model, or unreadable.
        ValueError: the file is not an exported model, or has another format version; the message says what it is.
        ImportError: a WeNet model needs a package that is not installed.
    """
    path, units = Path(path), None if units is None else Path(units)
    files = find_model_files(path, units)
    return _read_own(path, units) if files is None else load_wenet(files).meta


def _read_own(path: Path, units: Path | None) -> Meta:
    """Read the metadata of a file that `wenet-fusion export` wrote; `path` may be the folder that holds it."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such model file")
    path = model_paths(path)[0]
    if units is not None:
        raise ValueError(f"{path}: is not a model of WeNet: only those take a separate vocabulary; leave {units} out")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: is empty; export the model again")
    with path.open("rb") as file:
        try:
            archive = zipfile.ZipFile(file)
        except zipfile.BadZipFile:
            raise ValueError(f"{path}: {_not_a_zip(path)}") from None
        except DAMAGE as error:
            raise ValueError(f"{path}: is damaged ({error}); copy or export the file again") from None
        kind, member = _identify(archive, path)
        if archive.getinfo(member).file_size > MAX_META_BYTES:
            raise ValueError(f"{path}: its meta.json is larger than {MAX_META_BYTES >> 20} MiB; export the model again")
        content = read_member(archive, member, path)
    try:
        record = parse_json(content)
    except ValueError as error:
        raise ValueError(f"{path}: its meta.json is damaged ({error}); export the model again") from None
    meta = parse_meta(record, str(path))
    if meta.kind != kind:
        raise ValueError(f"{path}: meta.json says '{meta.kind}', the file is '{kind}'; export the model again")
    return meta


def load_model(
    path: str | Path, threads: int = 1, units: str | Path | None = None, backend: str = AUTO
) -> AcousticModel:
    """Load an exported file onto the CPU.

    Args:
        path: TorchScript file or ONNX archive; or a model that WeNet's scripts exported: its folder, `final.zip`,
            `encoder.onnx`, or a streaming CTC model for sherpa-onnx.
        threads: number of threads of one call of onnxruntime; torch uses the number set by `torch.set_num_threads`.
        units: vocabulary of a WeNet model; None: units.txt, tokens.txt or lang_char.txt beside it.
        backend: what runs the file: "native", "onnxruntime", "torch", or "auto", which takes "native" if it is
            installed and was measured to be faster on this kind of processor, else the backend of the file's format.
    Raises:
        OSError: the path is missing, a directory without a model, or unreadable.
        ValueError: the file is damaged or not an exported model, the installed torch or onnxruntime cannot run it, or
            it is not for `backend`; the message says what it is.
        ImportError: a package that the file needs (torch, onnxruntime, kaldi-native-fbank) is not installed.
    """
    path, units = Path(path), None if units is None else Path(units)
    files = find_model_files(path, units)
    if files is not None:
        if backend != AUTO:
            raise ValueError(f"{path}: is a model of WeNet, which takes no --backend {backend}; leave it out")
        return load_wenet(files, threads)
    meta, path = _read_own(path, units), model_paths(path)[0]
    return AcousticModel(load_backend(path, meta, backend, threads), meta, str(path))


def _identify(archive: zipfile.ZipFile, path: Path) -> tuple[str, str]:
    """Return the kind of an exported file and the name of the member that holds its metadata."""
    names = set(archive.namelist())
    if STEP in names or META in names:
        if not {STEP, META} <= names:
            missing = META if STEP in names else STEP
            raise ValueError(f"{path}: is an ONNX archive without {missing}; export the model again")
        return ONNX, META
    inner = {name.partition("/")[2]: name for name in names}  # TorchScript has all members in one folder
    if not any(name.startswith("code/") for name in inner):
        if "data.pkl" in inner:
            known = explain_checkpoint(archive, inner["data.pkl"], path)
            raise ValueError(f"{path}: {known or f'is a training checkpoint; {_EXPORT}'}")
        if "archive_format" in inner:
            raise ValueError(
                f"{path}: is a torch.export program, which this runtime does not run yet; export without --format pt2"
            )
        known = explain_members(names)
        raise ValueError(f"{path}: {known or f'is a zip archive but not an exported model; {_EXPORT}'}")
    if f"extra/{META}" not in inner:
        known = explain_script(archive, [inner[name] for name in inner if name.startswith("code/")])
        raise ValueError(f"{path}: {known or f'is TorchScript without {META}, written by another program; {_EXPORT}'}")
    return TORCHSCRIPT, inner[f"extra/{META}"]


def _not_a_zip(path: Path) -> str:
    with open(path, "rb") as file:
        start = file.read(3)
    is_cut_zip = start.startswith(b"PK")
    if (path.suffix == ".onnx" and not is_cut_zip) or (start[:1] == b"\x08" and start[2:] in _ONNX_STARTS):
        return (
            "is a single ONNX graph, such as those for WeNet's runtime and sherpa-onnx: give WeNet's whole folder, "
            "put sherpa-onnx's tokens.txt beside it, or, for this runtime, export with --format onnx"
        )
    if known := explain_no_zip(path):
        return known
    return f"is not an exported model, or is damaged; {_EXPORT}"
