"""Trained models: load, average and measure checkpoints, fold norms, and give models the runtime's interface."""

import copy
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchaudio
from wenet_fusion_runtime.model.acoustic_model import AcousticModel
from wenet_fusion_runtime.model.metadata import FORMAT, TORCHSCRIPT, parse_meta
from wenet_fusion_runtime.model.torch_backend import TorchBackend
from wenet_fusion_runtime.results.timestamps import EmissionDelay

from wenet_fusion.config import config_from_yaml, to_yaml
from wenet_fusion.data.batch import Batch
from wenet_fusion.data.batch_source import Loading
from wenet_fusion.data.batching import epoch_batches
from wenet_fusion.data.dataset import SpeechDataset
from wenet_fusion.data.judgement import Skip
from wenet_fusion.data.loading import iterate
from wenet_fusion.data.sequential.sequential_dataset import SequentialDataset
from wenet_fusion.model.asr_model import SOS_EOS, AsrModel
from wenet_fusion.model.chunking import FULL_CONTEXT, Chunking
from wenet_fusion.model.ctc import BLANK
from wenet_fusion.model.encoder import Encoder
from wenet_fusion.model.layers.norm import fuse_norms
from wenet_fusion.model.layers.positions.position_bias import PrecomputedBias
from wenet_fusion.model.streaming import StreamingModel
from wenet_fusion.ranks import Placement, Ranks
from wenet_fusion.recipe import RecipeConfig, build_dataset, build_source
from wenet_fusion.text.tokenizer import Tokenizer, restore_tokenizer
from wenet_fusion.training.progress.validation import validate
from wenet_fusion.training.state.averaging import average_checkpoints, reestimate_statistics
from wenet_fusion.training.state.checkpoint import ModelCheckpoint, load_model, load_weights


@dataclass(frozen=True)
class TrainedModel:
    """A model with its configuration and tokenizer, as restored from a checkpoint.

    >>> import inspect  # load_trained("final.pt") returns one
    >>> list(inspect.signature(TrainedModel).parameters)
    ['config', 'tokenizer', 'model', 'path']
    """

    config: RecipeConfig
    tokenizer: Tokenizer
    model: AsrModel  # eval mode, on the CPU
    path: Path


# --- checkpoints


def load_trained(path: Path) -> TrainedModel:
    """Rebuild a model from its checkpoint alone.

    Raises:
        ValueError, OSError: the file is not a model checkpoint, or its parts do not fit together.
    """
    return restore(load_model(path), path)


def restore(checkpoint: ModelCheckpoint, path: Path) -> TrainedModel:
    """Rebuild a model from a checkpoint in memory; `path` names the checkpoint. See `load_trained`."""
    config = config_from_yaml(RecipeConfig, checkpoint.config_yaml, f"configuration inside {path}")
    tokenizer = restore_tokenizer(config.tokenizer, checkpoint.units, checkpoint.bpe_model, str(path))
    model = AsrModel(config.model, len(tokenizer.vocabulary))
    load_weights(model, checkpoint.weights, str(path))
    return TrainedModel(config, tokenizer, model.eval(), path)


class Averaged(NamedTuple):
    """An averaged checkpoint, and the utterances that could not be used for its statistics."""

    checkpoint: ModelCheckpoint
    skipped: list[Skip]


def average(paths: list[Path], train_list: Path, batches: int, placement: Placement) -> Averaged:
    """Average checkpoints and re-estimate the BatchNorm statistics from `batches` batches of training data.

    Batches use full context and each chunk size of the model in turn, so that the statistics suit every chunking.

    Args:
        paths: checkpoints of one run, oldest first.
        train_list: data list for the statistics; if the run's data_type is sequential or lhotse, a list of this type.
        batches: number of batches.
        placement: the device, and the ranks, which share the batches and get the same result.

    Raises:
        ValueError, OSError: a file is missing or malformed, or `batches` is below 1.
    """
    if batches < 1:
        raise ValueError(f"--batches {batches}: statistics need at least 1 batch, 30 are usual")
    averaged = average_checkpoints(paths)
    trained = restore(averaged, paths[-1])
    dataset = (
        build_source(trained.config, train_list, trained.tokenizer)
        if trained.config.data.data_type in ("sequential", "lhotse")
        else build_dataset(trained.config, train_list, trained.tokenizer, augmented=True)
    )
    share = estimation_batches(trained.config, dataset, batches, placement.ranks)
    reestimate_statistics(trained.model.to(placement.device), share, placement)
    weights = {name: value.detach().cpu() for name, value in trained.model.state_dict().items()}
    skipped = [skip for skips in placement.ranks.all(dataset.skipped) for skip in skips]
    return Averaged(replace(averaged, weights=weights), list(dict.fromkeys(skipped)))


def estimation_batches(
    config: RecipeConfig, dataset: SpeechDataset | SequentialDataset, count: int, ranks: Ranks = Ranks()
) -> Iterator[tuple[Batch, Chunking]]:
    """Yield a rank's share of the first `count` batches of an epoch, each batch with its chunking.

    The chunkings are full context and each chunk size in turn. An epoch may have fewer than `count` batches.
    """
    training = config.training
    chunkings = itertools.cycle([FULL_CONTEXT, *training.chunking.served()])
    if isinstance(dataset, SequentialDataset):
        loading = Loading(training.max_batch_seconds, training.max_batch_rows, config.seed, training.num_workers)
        steps = math.ceil(count / ranks.world)  # the same number in all ranks, because ranks exchange rows
        own = itertools.islice(chunkings, ranks.rank, None, ranks.world)
        loaded = itertools.islice(dataset.epoch(0, 0, steps, loading, ranks).batches, steps)
        for number, ((batch, *_), chunking) in zip(itertools.count(ranks.rank, ranks.world), zip(loaded, own)):
            if number < count:
                yield batch, chunking
        return
    plan = epoch_batches(dataset.seconds, training.max_batch_seconds, training.max_batch_rows, config.seed, epoch=0)
    share = ranks.share(list(zip(plan[:count], chunkings)))
    batches = iterate(dataset, [indices for indices, _ in share], epoch=0, num_workers=training.num_workers)
    yield from zip(batches, (chunking for _, chunking in share))


class Measured(NamedTuple):
    """A checkpoint with loss and error rate on a data list."""

    checkpoint: ModelCheckpoint
    rate_name: str  # WER, or CER for languages without spaces
    skipped: list[Skip]


def measure(checkpoint: ModelCheckpoint, dev_list: Path, placement: Placement) -> Measured:
    """Measure loss and error rate of a checkpoint on a data list, like validation in training; ranks share the list."""
    trained = restore(checkpoint, Path("checkpoint"))
    data_type = trained.config.data.data_type
    listed = data_type if data_type in ("sequential", "lhotse") else "auto"
    dataset = build_dataset(trained.config, dev_list, trained.tokenizer, augmented=False, data_type=listed)
    training = trained.config.training
    model = trained.model.to(placement.device)
    result = validate(model, dataset, training.chunking.served()[-1], training.max_batch_seconds, placement)
    measured = replace(checkpoint, dev_loss=result.loss, dev_error_rate=result.errors.rate)
    skipped = [skip for skips in placement.ranks.all(dataset.skipped) for skip in skips]
    return Measured(measured, result.rate_name, list(dict.fromkeys(skipped)))


# --- models for the runtime


def folded(trained: TrainedModel) -> AsrModel:
    """Return a copy of the model in eval mode: norms folded, position biases of its chunk sizes precomputed.

    Raises:
        ValueError: the model has BatchNorms that cannot be folded (norm: batch).
    """
    model = copy.deepcopy(trained.model).eval()
    fuse_norms(model)
    encoder = model.encoder
    if encoder.position_bias is not None:
        served = trained.config.training.chunking.served()
        steps = [(chunking.size, chunking.size * (chunking.left + 1)) for chunking in served]
        encoder.add_module("position_bias", PrecomputedBias(encoder.position_bias, steps))
    return model


def fused_model(trained: TrainedModel) -> StreamingModel:
    """Return a `folded` copy as a model that runs step by step."""
    return StreamingModel(folded(trained)).eval()


def look_up_biases(encoder: Encoder) -> None:
    """Replace precomputed position biases, in place, by the learned ones, which fit chunks of any size."""
    bias: Any = encoder.position_bias
    if isinstance(bias, PrecomputedBias):
        encoder.add_module("position_bias", bias.bias)


def acoustic_model(trained: TrainedModel, device: str = "cpu") -> AcousticModel:
    """Return the unfused model with the runtime's interface, so that evaluation decodes with the runtime's code."""
    model = StreamingModel(trained.model.to(device)).eval()
    return AcousticModel(TorchBackend(model, device), parse_meta(meta_record(trained, {}), str(trained.path)))


class FileForm(NamedTuple):
    """Kind and precision of an exported file, and the engine that runs it."""

    kind: str = TORCHSCRIPT
    precision: str = "float32"
    engine: str = "none"  # none: any build of torch; else a quantized engine of torch, or "onnxruntime"


def meta_record(
    trained: TrainedModel,
    verification: dict[str, Any],
    form: FileForm = FileForm(),
    emission_delay: EmissionDelay | None = None,
) -> dict[str, Any]:
    """Return the contents of meta.json: how to run the file, and where it came from.

    Args:
        trained: the model.
        verification: results of comparing the file with the checkpoint.
        form: kind and precision of the file, and the engine that runs it.
        emission_delay: CTC emission delay; None: not measured, so timestamps are emission times.
    """
    model, tokenizer = trained.config.model, trained.tokenizer
    frontend, drawn = model.frontend, trained.config.training.chunking
    served = drawn.served()
    return {
        "kind": form.kind,
        "format": FORMAT,
        "sample_rate": frontend.sample_rate,
        "frame_samples": frontend.frame_samples,
        "tail_samples": frontend.right_padding_samples,
        "chunkings": [chunking._asdict() for chunking in drawn.trained()],
        "default_chunking": served[-1]._asdict(),
        "units": list(tokenizer.vocabulary.tokens),
        "units_sha256": tokenizer.vocabulary.sha256,
        "tokenizer": {"kind": tokenizer.kind, "join": tokenizer.join},
        "blank": BLANK,
        "sos_eos": SOS_EOS,
        "decoder": model.decoder.layers > 0,
        "reverse_decoder": model.decoder.reverse_layers > 0,
        "decoding": {
            "ctc_weight": model.rescoring.ctc_weight,
            "reverse_weight": model.rescoring.reverse_weight if model.decoder.reverse_layers else 0.0,
        },
        "word_times": None if emission_delay is None else emission_delay._asdict(),
        "features": {
            "num_mel_bins": frontend.num_mel_bins,
            "window_ms": frontend.window_ms,
            "hop_ms": frontend.hop_ms,
            "low_freq": frontend.low_freq,
            "high_freq": frontend.high_freq,
        },
        "encoder": {
            "dim": model.encoder.dim,
            "layers": model.encoder.layers,
            "heads": model.encoder.heads,
            "conv_kernel": model.encoder.conv_kernel,
        },
        "precision": form.precision,
        "engine": form.engine,
        "latency": {
            str(chunking.size): latency(frontend.frame_samples / frontend.sample_rate, chunking) for chunking in served
        },
        "config": to_yaml(trained.config),
        "versions": {"torch": torch.__version__, "torchaudio": torchaudio.__version__},
        "verification": verification,
    }


def latency(frame_seconds: float, chunking: Chunking) -> dict[str, float]:
    """Return the algorithmic latency of a chunk size (without computation), in milliseconds.

    A frame waits for the end of its chunk; the front-end and the subsampling are causal.
    """
    chunk_ms = 1000 * frame_seconds * chunking.size
    return {"longest_wait_ms": chunk_ms, "mean_wait_ms": chunk_ms / 2, "look_ahead_ms": 0.0}
