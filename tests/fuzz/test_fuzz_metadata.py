"""The metadata of exported files, and archives that are damaged."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from support.runtime.fake_model import meta_record, onnx_graphs, onnx_record, write_zip
from support.runtime.fuzzing import changed_record, damaged, fuzz
from wenet_fusion_runtime import Recognizer
from wenet_fusion_runtime.cli.__main__ import main
from wenet_fusion_runtime.model.model_file import read_meta

pytestmark = pytest.mark.slow
DELAY = {"start_shift_seconds": -0.3, "end_shift_seconds": 0.1}


def write(path: Path, record: object) -> Path:
    """Write an archive with these metadata."""
    content = record if isinstance(record, bytes) else json.dumps(record).encode("utf-8", "surrogatepass")
    return write_zip(path, {"meta.json": content, **onnx_graphs()})


def recognise(path: Path) -> None:
    """Recognise half a second of noise."""
    recognizer = Recognizer(path)
    with recognizer.create_stream() as stream:
        stream.accept_waveform((0.1 * np.random.default_rng(0).standard_normal(4000)).astype(np.float32), 8000)
    assert isinstance(stream.text, str)


def test_values_of_the_metadata(tmp_path: Path) -> None:
    """A file with changed metadata is read, shown by `info` and used to recognise, or refused."""
    path = tmp_path / "model.zip"
    onnx = onnx_record() | {"word_times": DELAY}
    text = json.dumps(onnx).encode()
    whole = st.one_of(changed_record([onnx, onnx, meta_record() | {"word_times": DELAY}]), damaged([text]))

    def check(record: object) -> None:
        write(path, record)
        meta = read_meta(path)
        with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), "utf-8")):
            assert main(["info", str(path)]) == 0
        if meta.kind == onnx["kind"]:
            recognise(path)

    fuzz(whole, check, share=0.1, place="model.zip")


def test_damaged_archives(tmp_path: Path) -> None:
    path = write(tmp_path / "model.zip", onnx_record())
    content = path.read_bytes()

    def check(changed: bytes) -> None:
        path.write_bytes(changed)
        recognise(path)

    fuzz(damaged([content], [b"PK\x01\x02", b"PK\x05\x06", b"meta.json"]), check, share=0.06, place="model.zip")
