"""WeNet's own models with random weights, exported by WeNet's own scripts.

The package `wenet` must be importable: see `import_wenet`, which raises ImportError otherwise.
"""

import argparse
import contextlib
import io
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import yaml
from parts.training.wenet_package import import_wenet
from torch import nn
from wenet_fusion_runtime.results.vocabulary import RESERVED

from wenet_fusion.model.asr_model import FrontendConfig
from wenet_fusion.model.chunking import Chunking
from wenet_fusion.model.decoder import DecoderConfig
from wenet_fusion.model.encoder_config import EncoderConfig
from wenet_fusion.model.losses import LossConfig

BINS = FrontendConfig().num_mel_bins
RECIPE, CHECKPOINT, UNITS = "train.yaml", "final.pt", "units.txt"


def model_settings(encoder: EncoderConfig, decoder: DecoderConfig, vocabulary: int) -> dict[str, Any]:
    """Return the configuration of WeNet's U2++ Conformer with these shapes, as WeNet's training reads it."""
    loss = LossConfig()
    return {
        "input_dim": BINS,
        "output_dim": vocabulary,
        "encoder": "conformer",
        "encoder_conf": {
            "output_size": encoder.dim,
            "attention_heads": encoder.heads,
            "linear_units": encoder.feed_forward,
            "num_blocks": encoder.layers,
            "dropout_rate": encoder.dropout,
            "positional_dropout_rate": encoder.dropout,
            "attention_dropout_rate": encoder.dropout,
            "input_layer": "conv2d",
            "cnn_module_kernel": encoder.conv_kernel,
            "cnn_module_norm": "layer_norm",
            "causal": True,
            "use_dynamic_chunk": True,
        },
        "decoder": "bitransformer",
        "decoder_conf": {
            "attention_heads": decoder.heads,
            "linear_units": decoder.feed_forward,
            "num_blocks": decoder.layers,
            "r_num_blocks": decoder.reverse_layers,
            "dropout_rate": decoder.dropout,
            "positional_dropout_rate": decoder.dropout,
            "self_attention_dropout_rate": decoder.dropout,
            "src_attention_dropout_rate": decoder.dropout,
        },
        "model_conf": {
            "ctc_weight": loss.ctc_weight,
            "lsm_weight": loss.label_smoothing,
            "reverse_weight": loss.reverse_weight,
        },
        "tokenizer_conf": {"special_tokens": {"<blank>": 0, "<unk>": 1, "<sos>": 2, "<eos>": 2}},
        "dataset_conf": {},
    }


def write_exports(
    folder: Path, config: EncoderConfig, vocabulary: int, chunkings: Sequence[Chunking], seed: int
) -> Path:
    """Write the folder of a WeNet experiment with random weights, and export them by WeNet's scripts.

    The folder holds train.yaml, units.txt and final.pt; final.zip and final_quant.zip; and for each chunking a folder
    of graphs (`onnx_16_4`), in float32 and in int8. All exports have the weights of final.pt. A step does not
    run the decoders, so they have one layer each.
    """
    decoder = DecoderConfig(layers=1, reverse_layers=1, heads=config.heads, feed_forward=config.feed_forward)
    record = model_settings(config, decoder, vocabulary)
    folder.mkdir(parents=True)
    (folder / RECIPE).write_text(yaml.safe_dump(record), encoding="utf-8")
    tokens = [*RESERVED, *(f"word{number}" for number in range(vocabulary - len(RESERVED)))]
    units = "".join(f"{token} {number}\n" for number, token in enumerate(tokens))
    (folder / UNITS).write_text(units, encoding="utf-8")
    torch.manual_seed(seed)
    torch.save(init_model(record).state_dict(), folder / CHECKPOINT)
    export_script(folder)
    for chunking in chunkings:
        export_graphs(folder, *chunking)
    return folder


def init_model(record: Mapping[str, Any]) -> Any:
    """Return WeNet's model of a train.yaml, with fresh weights."""
    module = import_wenet("utils.init_model")
    arguments = argparse.Namespace(checkpoint=None, enc_init=None, jit=True)
    with _as_wenet():
        model, _ = module.init_model(arguments, json.loads(json.dumps(record)))
    return model.eval()


def export_script(folder: Path) -> None:
    """Run WeNet's export_jit.py: writes final.zip and final_quant.zip."""
    flags = _flags(folder, output_file=folder / "final.zip", output_quant_file=folder / "final_quant.zip")
    _main("bin.export_jit", flags)


def export_graphs(folder: Path, chunk: int, left: int, reverse_weight: float = 0.3) -> Path:
    """Run WeNet's export_onnx_cpu.py; return the folder of the graphs, which has units.txt and train.yaml too."""
    output = folder / f"onnx_{chunk}_{left}"
    flags = _flags(folder, output_dir=output, chunk_size=chunk, num_decoding_left_chunks=left)
    export = torch.onnx.export
    # WeNet's script was written when torch had only the exporter that is based on TorchScript.
    with mock.patch("torch.onnx.export", lambda *args, **kwargs: export(*args, **kwargs, dynamo=False)):
        _main("bin.export_onnx_cpu", [*flags, "--reverse_weight", str(reverse_weight)])
    for name in (UNITS, RECIPE):
        (output / name).write_bytes((folder / name).read_bytes())
    return output


def _flags(folder: Path, **flags: object) -> list[str]:
    known = {"config": folder / RECIPE, "checkpoint": folder / CHECKPOINT, **flags}
    return [text for name, value in known.items() for text in (f"--{name}", str(value))]


def _main(name: str, flags: Sequence[str]) -> None:
    """Run a program of WeNet in this process."""
    module = import_wenet(name)
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(mock.patch.object(sys, "argv", [name, *flags]))
        stack.enter_context(mock.patch.dict("os.environ"))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(_as_wenet())
        module.main()


@contextlib.contextmanager
def _as_wenet() -> Iterator[None]:
    """Undo two changes by Rev.com that prevent building plain transformers, and scripting models with two decoders."""
    classes = import_wenet("utils.init_model").WENET_ENCODER_CLASSES
    model: type[nn.Module] = import_wenet("transformer.asr_model").ASRModel
    # `attention_decoding` calls a method that the class of two decoders lacks.
    no_search = mock.patch.object(model, "attention_decoding", torch.jit.unused(lambda self: None))
    with mock.patch.dict(classes, {"transformer": _without(classes["transformer"], "num_langs")}), no_search:
        yield


def _without(build: Callable[..., Any], name: str) -> Callable[..., Any]:
    return lambda *args, **kwargs: build(*args, **{key: value for key, value in kwargs.items() if key != name})
