"""The step of one stream, compiled by AOTInductor from the program that `wenet-fusion export --format pt2` traces.

In int8, scales are constant, as in our ONNX archive; for each product, PyTorch chooses the faster of oneDNN and its own
C++ templates.
Source: https://docs.pytorch.org/tutorials/unstable/inductor_cpu_quantization.html
"""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from wenet_fusion.export.targets.torch_program import ChunkStep, example_state
from wenet_fusion.model.chunking import Chunking
from wenet_fusion.trained_model import TrainedModel, fused_model

CALIBRATION_STEPS = 8
Example = tuple[Tensor, Tensor, list[Tensor]]  # samples (1, N), lengths (1,), state


def compiled_steps(
    trained: TrainedModel, chunking: Chunking, folder: Path, rng: np.random.Generator
) -> Iterator[tuple[str, Callable[[], object]]]:
    """Compile the step in float32 and, if torchao is installed, in int8; return names and functions that run a step.

    Args:
        trained: the model; its decoders are left out.
        chunking: chunk size and left context of the compiled step.
        folder: folder for the packages; a package takes a minute or more to compile.
        rng: makes the audio.
    """
    model = fused_model(trained)
    model.decoder = model.reverse_decoder = None
    step = ChunkStep(model, chunking).eval()
    count = chunking.size * model.frame_samples
    samples = torch.from_numpy(rng.normal(0, 0.1, (1, count)).astype(np.float32))
    example = (samples, torch.full([1], count), example_state(step, 1))
    with torch.no_grad():
        programs = {"float32": torch.export.export(step, example)}
        if importlib.util.find_spec("torchao") is not None:
            programs["int8"] = quantised(step, example)
    for precision, program in programs.items():
        path = folder / f"{precision}_{chunking.size}.pt2"
        options = {"freezing": True, "max_autotune": precision == "int8"}
        with torch.no_grad():
            torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)
        yield f"AOTInductor {precision}", runner(torch._inductor.aoti_load_package(str(path)), example)


def quantised(step: ChunkStep, example: Example) -> ExportedProgram:
    """Return the program with int8 products and constant scales."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer

    # Without strict=True, the quantizer would find no linear layers and change nothing.
    module = torch.export.export(step, example, strict=True).module()
    quantizer = x86_inductor_quantizer.X86InductorQuantizer()
    quantizer.set_global(x86_inductor_quantizer.get_default_x86_inductor_quantization_config())
    module = prepare_pt2e(module, quantizer)
    samples, lengths, state = example
    for _ in range(CALIBRATION_STEPS):
        _, state = module(samples, lengths, state)
    module = convert_pt2e(module)
    if not any("quantize" in str(node.target) for node in module.graph.nodes):
        raise RuntimeError("torchao quantised no layer")
    return torch.export.export(module, example, strict=True)


def runner(compiled: Any, example: Example) -> Callable[[], object]:
    """Return a function that runs the next step of the stream."""
    samples, lengths, state = example

    def call() -> None:
        nonlocal state
        with torch.no_grad():
            _, state = compiled(samples, lengths, state)

    return call
