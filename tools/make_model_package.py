#!/usr/bin/env python3
"""Make a Python package of an exported file and its language model, or put both into the runtime (--bundle). The
runtime then uses this model by default.

Install the folder with pip, or make a wheel of it: pip wheel --no-deps FOLDER. One model can be installed at a time.
"""

import argparse
import gzip
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from wenet_fusion_runtime.console import HelpFormatter, run_main
from wenet_fusion_runtime.files import file_sha256, read_lines, replacing_set, write_text
from wenet_fusion_runtime.model.metadata import KINDS, ONNX, Meta
from wenet_fusion_runtime.model.model_file import read_meta
from wenet_fusion_runtime.search.language_models.language_model import is_kenlm_binary, load_language_model
from wenet_fusion_runtime.stream.decoding_options import LANGUAGE_MODEL_WEIGHTS, DecodingOptions
from wenet_fusion_runtime.stream.installed_model import CARD, DESCRIPTION, PACKAGE

_PROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "{name}"
version = "{version}"
description = "A speech recognition model for wenet-fusion-runtime"
readme = "{package}/README.md"
requires-python = ">=3.10"
dependencies = ["wenet-fusion-runtime[{extras}]"]

[tool.setuptools]
packages = ["{package}"]

[tool.setuptools.package-data]
{package} = ["*"]
"""
GZIP = b"\x1f\x8b"  # the first bytes of gzip files
BUNDLED = Path(__file__).parents[1] / "runtime" / "wenet_fusion_runtime" / "bundled_model"  # in this clone
_DEFAULTS = DecodingOptions()


def make_package(options: argparse.Namespace) -> Path:
    """Write the files of the model; earlier files are replaced when the new ones are complete.

    Returns:
        The folder of the model: in the package or, without `output`, in the runtime.
    Raises:
        OSError, ValueError: a file is missing, is no exported model or language model, or the folder holds something
            else.
    """
    meta = read_meta(options.model)
    if meta.kind not in KINDS:
        raise ValueError(f"{options.model}: is a {meta.kind} model; a package holds a file of wenet-fusion export")
    is_binary = options.language_model is not None and is_kenlm_binary(options.language_model)
    extras = ("onnx" if meta.kind == ONNX else "torch") + ",lm" * is_binary
    if options.output is None and extras != "onnx":
        raise ValueError(
            f"--bundle: needs the runtime's extras [{extras}], but its extra [model] brings only onnxruntime; give an "
            "ONNX archive and an ARPA file"
        )
    folder = BUNDLED if options.output is None else options.output / PACKAGE
    output = options.output
    if output is not None and output.exists() and any(output.iterdir()) and not (folder / DESCRIPTION).exists():
        raise FileExistsError(f"{output}: holds something else than a model package; give another --output")
    _write_model(folder, options, meta)
    if output is not None:
        project = _PROJECT.format(name=options.name, version=options.version, extras=extras, package=PACKAGE)
        write_text(output / "pyproject.toml", project)
    return folder


def _write_model(folder: Path, options: argparse.Namespace, meta: Meta) -> None:
    """Write the model, its description and its card to a folder: all files or none."""
    card = f"# {options.name}\n\nMade from {options.model.name}.\n"
    texts = {CARD: card if options.card is None else "".join(f"{line}\n" for line in read_lines(options.card))}
    if options.output is not None:
        texts["__init__.py"] = '"""A model for wenet-fusion-runtime: see README.md."""\n'
    record: dict[str, object] = {"file": "model" + options.model.suffix, "language_model": None}
    record |= _weights(options, meta)
    sources = {str(record["file"]): options.model}
    if options.language_model is not None:
        record["language_model"] = "language_model" + (
            ".binary" if is_kenlm_binary(options.language_model) else ".arpa.gz"
        )
        sources[str(record["language_model"])] = options.language_model
    record |= {"confidence_threshold": options.confidence_threshold, "beam_size": options.beam_size}
    record |= {"sha256": file_sha256(options.model), "example": options.example}
    texts[DESCRIPTION] = json.dumps(record, indent=2) + "\n"
    earlier = [path.name for path in folder.iterdir() if path.is_file()] if folder.exists() else []
    with replacing_set(folder, [DESCRIPTION, *sorted({*texts, *sources, *earlier} - {DESCRIPTION})]) as new:
        for name, source in sources.items():
            _copy(source, new / name)
        for name, text in texts.items():
            write_text(new / name, text)


def _copy(source: Path, target: Path) -> None:
    """Copy a file; if the target's name ends in .gz, compress it unless it is compressed already."""
    with source.open("rb") as file:
        is_compressed = file.read(len(GZIP)) == GZIP
        file.seek(0)
        if is_compressed or target.suffix != ".gz":
            shutil.copyfile(source, target)
            return
        with gzip.GzipFile(target, "wb", mtime=0) as packed:
            shutil.copyfileobj(file, packed)


def _weights(options: argparse.Namespace, meta: Meta) -> dict[str, float]:
    """Check that the model can use the decoding options and the language model; return the weights."""
    given = {name: value for name in LANGUAGE_MODEL_WEIGHTS if (value := getattr(options, name)) is not None}
    if given and options.language_model is None:
        raise ValueError(f"--{' and --'.join(given)}: no effect without --language_model FILE")
    checked = DecodingOptions(**given, confidence_threshold=options.confidence_threshold, beam_size=options.beam_size)
    if options.language_model is not None:
        checked = replace(checked, language_model=load_language_model(options.language_model))
    checked.resolved(meta).scorers(meta.vocabulary)
    return {name: getattr(checked, name) for name in LANGUAGE_MODEL_WEIGHTS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see --help."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=HelpFormatter,
        epilog="example:\n  python tools/make_model_package.py exp/final.zip --language_model exp/lm.arpa.gz "
        "--lm_weight 0.5 --output dist/model && pip install dist/model",
    )
    parser.add_argument(
        "model", type=Path, help="exported file; recommended: exported with --format onnx --precision int8"
    )
    parser.add_argument(
        "--language_model", type=Path, metavar="FILE", help="word n-gram model: ARPA (or .gz), or KenLM binary"
    )
    parser.add_argument(
        "--lm_weight",
        type=float,
        metavar="W",
        help=f"weight of the language model (default: {_DEFAULTS.lm_weight:g})",
    )
    parser.add_argument(
        "--word_bonus", type=float, metavar="NATS", help=f"score added per word (default: {_DEFAULTS.word_bonus:g})"
    )
    parser.add_argument(
        "--unknown_word_penalty",
        type=float,
        metavar="NATS",
        help=f"score subtracted per word outside its vocabulary (default: {_DEFAULTS.unknown_word_penalty:g})",
    )
    parser.add_argument(
        "--confidence_threshold",
        type=float,
        default=0.0,
        metavar="P",
        help="reject the text of a segment if its confidence is lower (default: %(default)g)",
    )
    parser.add_argument(
        "--beam_size", type=int, metavar="N", help="number of hypotheses in the beam (default: the search mode's)"
    )
    parser.add_argument("--card", type=Path, metavar="FILE", help="model card in Markdown, which becomes the README")
    parser.add_argument("--name", default="wenet-fusion-model", help="name of the distribution")
    parser.add_argument("--version", default="0.1.0", help="version of the distribution")
    parser.add_argument(
        "--example",
        default="",
        metavar="TEXT",
        help="a sentence that the server's page suggests to say",
    )
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--output", type=Path, metavar="FOLDER", help="folder of the package to write")
    place.add_argument(
        "--bundle", action="store_true", help="put the model into the runtime of this clone; it then needs no package"
    )
    options = parser.parse_args(arguments)
    folder = make_package(options)
    megabytes = sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) / 1e6
    if options.bundle:
        print(f"{folder}: {megabytes:.1f} MB")
        return 0
    print(f"{options.output}: {options.name} {options.version}, {megabytes:.1f} MB")
    print(f"install it with: pip install {options.output}")
    return 0


if __name__ == "__main__":
    run_main(main)
