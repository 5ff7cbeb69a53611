"""Find the files of a WeNet model in a folder, or beside a given file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import NamedTuple

from wenet_fusion_runtime.model.archive_members import DAMAGE
from wenet_fusion_runtime.model.wenet.wrong_files import explain_folder

SCRIPTED, GRAPHS, SHERPA = "WeNet TorchScript", "WeNet ONNX", "sherpa-onnx WeNet CTC"  # values of `Meta.kind`
SCRIPTS = ("final.zip", "final_quant.zip")  # the first that exists is the model of a folder
ENCODERS = ("encoder.onnx", "encoder.quant.onnx")
UNITS = ("units.txt", "tokens.txt", "lang_char.txt")
RECIPE = "train.yaml"
_OWN_META = "extra/meta.json"  # below the folder inside the zip; only `wenet-fusion export` writes it
_METHOD = b"def forward_encoder_chunk("
_ONNX_START = b"\x08"
_MAX_CODE_BYTES = 8 << 20


class ModelFiles(NamedTuple):
    """The files of one model.

    >>> ModelFiles(GRAPHS, (Path("exp/encoder.onnx"),), None, None).kind
    'WeNet ONNX'
    """

    kind: str  # SCRIPTED, GRAPHS or SHERPA
    models: tuple[Path, ...]  # the TorchScript file, the three graphs, or the only graph
    units: Path | None  # None: not found
    recipe: Path | None  # train.yaml; None: there is none


def model_paths(path: Path) -> tuple[Path, ...]:
    """Return the files of the model at `path`, which may be a folder, without reading them.

    Raises:
        OSError: the path is a folder without a model; the message says what is in it.
    """
    if not path.is_dir():
        return _graphs(path) if path.name in ENCODERS else (path,)
    for name in SCRIPTS:
        if (path / name).is_file():
            return (path / name,)
    for name in ENCODERS:
        if len(graphs := _graphs(path / name)) > 1:
            return graphs
    single = sorted(path.glob("*.onnx"))
    if len(single) == 1 and _first(path, UNITS) is not None:
        return (single[0],)
    raise IsADirectoryError(f"{path}: {explain_folder(path)}")


def find_model_files(path: Path, units: Path | None = None) -> ModelFiles | None:
    """Return the files of a WeNet model; None if `path` is missing or does not look like one.

    The graphs are read later, when the model is loaded: a graph of another program is refused then.

    Args:
        path: a file or a folder.
        units: the vocabulary; None looks for it beside the model.
    Raises:
        OSError: see `model_paths`.
    """
    if not path.exists():
        return None
    models = model_paths(path)
    first = models[0]
    if _is_wenet_script(first):
        kind = SCRIPTED
    elif len(models) > 1:
        kind = GRAPHS
    elif _is_graph(first) and (units is not None or _first(first.parent, UNITS) is not None):
        kind = SHERPA
    else:
        return None
    return ModelFiles(kind, models, units or _first(first.parent, UNITS), _first(first.parent, (RECIPE,)))


def _graphs(encoder: Path) -> tuple[Path, ...]:
    """Return the encoder and the two graphs beside it; only the encoder if one of these is missing."""
    suffix = encoder.name.removeprefix("encoder")
    others = [encoder.with_name(f"{name}{suffix}") for name in ("ctc", "decoder")]
    return (encoder, *others) if all(path.is_file() for path in (encoder, *others)) else (encoder,)


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _is_graph(path: Path) -> bool:
    with open(path, "rb") as file:
        return path.suffix == ".onnx" and file.read(1) == _ONNX_START


def _is_wenet_script(path: Path) -> bool:
    """Return whether a file is TorchScript with the encoder method of WeNet, and not from `wenet-fusion export`."""
    try:
        with zipfile.ZipFile(path) as archive:
            inner = {info.filename.partition("/")[2]: info for info in archive.infolist()}
            if _OWN_META in inner:
                return False
            code = (info for name, info in inner.items() if name.startswith("code/") and name.endswith(".py"))
            return any(info.file_size <= _MAX_CODE_BYTES and _METHOD in archive.read(info) for info in code)
    except DAMAGE:
        return False
