"""Choose what runs an exported file: the native step, onnxruntime or torch."""

from __future__ import annotations

from pathlib import Path

from wenet_fusion_runtime.model.acoustic_model import Backend
from wenet_fusion_runtime.model.metadata import KINDS, ONNX, TORCHSCRIPT, Meta
from wenet_fusion_runtime.model.native_backend import has_native_step, is_native_faster, load_native, native_family
from wenet_fusion_runtime.model.onnx_backend import load_onnx
from wenet_fusion_runtime.model.torch_backend import NO_ENGINE, load_torchscript
from wenet_fusion_runtime.model.wenet.wenet_files import SCRIPTED

AUTO, NATIVE, ONNXRUNTIME, TORCH = "auto", "native", "onnxruntime", "torch"
BACKENDS = (AUTO, NATIVE, ONNXRUNTIME, TORCH)


def load_backend(path: Path, meta: Meta, name: str, threads: int) -> Backend:
    """Load an exported file.

    Args:
        path: the file.
        meta: its metadata.
        name: one of BACKENDS.
        threads: see `load_model`.
    Raises:
        ImportError: the backend is not installed.
        ValueError: the file is not for this backend, or is damaged.
    """
    chosen = choose_backend(path, meta, name, threads)
    if chosen == NATIVE:
        return load_native(path, meta, threads)
    return load_onnx(path, meta, threads) if chosen == ONNXRUNTIME else load_torchscript(path, meta)


def choose_backend(path: Path, meta: Meta, name: str, threads: int = 1) -> str:
    """Return the backend that runs an exported file: NATIVE, ONNXRUNTIME or TORCH.

    Args:
        path: the file.
        meta: its metadata.
        name: one of BACKENDS; AUTO takes NATIVE if the file allows it, wenet-fusion-kernels is installed and was
            measured to be faster on this kind of processor, and one thread is wanted; else ONNXRUNTIME or TORCH.
        threads: number of threads of a call; the native step has one.
    Raises:
        ValueError: the file is not for this backend.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend '{name}' is unknown; choose one of {', '.join(BACKENDS)}")
    usual = TORCH if meta.kind == TORCHSCRIPT else ONNXRUNTIME
    has_native = meta.kind == ONNX and has_native_step(path)
    if name == AUTO:
        return NATIVE if has_native and threads == 1 and is_native_faster() else usual
    if name == NATIVE and not has_native:
        raise ValueError(
            f"{path}: cannot run on the native step, which needs an int8 ONNX archive of this version; export the "
            "model again with --format onnx --precision int8"
        )
    if name not in (NATIVE, usual):
        raise ValueError(
            f"{path}: runs on {usual}, not on {name}; leave --backend out, or export with another --format"
        )
    return name


def describe_backend(path: Path, meta: Meta, name: str) -> str:
    """Return what the command `info` prints about the backend that runs a model on this machine.

    The text names the processor family of the native step, or the quantized engine of torch.

    Args:
        path: the model's file.
        meta: its metadata.
        name: one of BACKENDS.
    Raises:
        ValueError: the file is not for this backend.
    """
    if meta.kind in KINDS and choose_backend(path, meta, name) == NATIVE:
        return f"native step ({native_family()})"
    if meta.kind in (TORCHSCRIPT, SCRIPTED):
        return "torch" if meta.requires == NO_ENGINE else f"torch with its quantized engine {meta.requires}"
    can_be_native = meta.kind == ONNX and has_native_step(path)
    return "onnxruntime, or the native step (--backend native)" if can_be_native else "onnxruntime"
