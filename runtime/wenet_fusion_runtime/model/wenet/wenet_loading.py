"""Load a WeNet model: make an `AcousticModel` with its `Meta` from graphs or script, vocabulary and recipe."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from wenet_fusion_runtime.audio.sample_formats import check_format
from wenet_fusion_runtime.model.acoustic_model import AcousticModel
from wenet_fusion_runtime.model.conformance import Conformance
from wenet_fusion_runtime.model.metadata import ANY, DYNAMIC, FIXED, Meta
from wenet_fusion_runtime.model.torch_backend import NO_ENGINE
from wenet_fusion_runtime.model.wenet.kaldi_features import FeatureSettings, KaldiFeatures
from wenet_fusion_runtime.model.wenet.onnx_graphs import CacheLayout, load_onnx_graphs
from wenet_fusion_runtime.model.wenet.recipe_settings import RecipeSettings, read_recipe
from wenet_fusion_runtime.model.wenet.row_backend import MOST_FRAMES, Geometry, Graphs, RowBackend
from wenet_fusion_runtime.model.wenet.scripted_graphs import load_scripted
from wenet_fusion_runtime.model.wenet.sherpa_graph import load_sherpa_graph
from wenet_fusion_runtime.model.wenet.unit_file import read_units
from wenet_fusion_runtime.model.wenet.wenet_files import GRAPHS, SCRIPTED, SHERPA, ModelFiles
from wenet_fusion_runtime.results.timestamps import EmissionDelay
from wenet_fusion_runtime.results.vocabulary import Vocabulary

CHUNK_SECONDS = 0.64  # default chunk of a TorchScript file, which accepts any: 16 frames of 40 ms, as in WeNet
LEFT_SECONDS = 20.48  # its default left context; most recipes train without a limit, but more only costs time
PADDING_SECONDS = 0.32  # silence after the audio, in which the last word may still be emitted
CTC_WEIGHT = 0.5  # default of WeNet's runtimes
REVERSE_WEIGHT = 0.3  # default of WeNet's recipes with two decoders
_QUANTISED = "quant"
_RESTARTS = (
    f"its positions end after {MOST_FRAMES} frames: a stream starts the encoder anew in the silence after a segment, "
    "at the latest when the positions end"
)
_ALONE = "takes one row: a server steps its streams one after the other"
_NO_DELAY = "no correction of word times for emission delay: nobody has measured it"
_FIXED = "chunk and left context are fixed: another latency needs another export"
_NO_DECODER = "no attention decoder: no rescoring"


class _Opened(NamedTuple):
    """An opened model, in the same form for every kind of file."""

    graphs: Graphs
    geometry: Geometry
    features: FeatureSettings
    chunking: tuple[int, int] | None  # None: any
    reverse_weight: float
    has_decoder: bool
    requires: str


def load_wenet(files: ModelFiles, threads: int = 1) -> AcousticModel:
    """Load a model onto the CPU and run it once.

    Args:
        files: see `find_model_files`.
        threads: number of threads of one call of onnxruntime; torch uses the number set by `torch.set_num_threads`.
    Raises:
        OSError: the vocabulary is missing, or a file cannot be read.
        ImportError: a package that the model needs is not installed.
        ValueError: the model cannot be loaded, or its vocabulary or recipe belongs to another model.
    """
    path = files.models[0]
    recipe = RecipeSettings() if files.recipe is None else read_recipe(files.recipe)
    opened = _OPEN[files.kind](files, recipe, threads)
    geometry, settings = opened.geometry, opened.features
    if geometry.lookahead(settings) < 0:
        raise ValueError(
            f"{path}: its right context of {geometry.right_context} feature frames is shorter than its subsampling by "
            f"{geometry.subsampling} allows; export the model again"
        )
    check_format(settings.sample_rate)
    backend = RowBackend(opened.graphs, geometry, KaldiFeatures(settings), opened.has_decoder)
    vocabulary = read_units(_vocabulary(files, recipe), geometry.eos if opened.has_decoder else None)
    meta = _describe(files, opened, recipe, vocabulary)
    with Conformance(meta, str(path)).calling():
        size = backend.vocabulary_size(meta.default_chunk, meta.default_left)
    if size != len(vocabulary):
        raise ValueError(
            f"{vocabulary.source}: has {len(vocabulary)} tokens, but {path} scores {size}: it is the vocabulary of "
            "another model"
        )
    return AcousticModel(backend, meta, str(path))


def _script(files: ModelFiles, recipe: RecipeSettings, threads: int) -> _Opened:
    path = files.models[0]
    graphs = load_scripted(path)
    geometry, bins = graphs.geometry(), graphs.bins()
    settings = recipe.features
    if bins is not None and bins != settings.bins:
        if files.recipe is not None:
            raise ValueError(
                f"{path}: normalises {bins} features, but {files.recipe} has num_mel_bins {settings.bins}: they belong "
                "to different models"
            )
        settings = settings._replace(bins=bins)
    weight = REVERSE_WEIGHT if recipe.reverse_weight is None else recipe.reverse_weight
    return _Opened(graphs, geometry, settings, None, weight if geometry.is_bidirectional else 0.0, True, NO_ENGINE)


def _graphs(files: ModelFiles, recipe: RecipeSettings, threads: int) -> _Opened:
    encoder, ctc, decoder = files.models
    found = load_onnx_graphs(encoder, ctc, decoder, threads)
    layout, settings = found.graphs.layout, _features(files, recipe, found.bins, found.sample_rate)
    chunking = _chunking(encoder, layout)
    return _Opened(found.graphs, found.geometry, settings, chunking, found.reverse_weight, True, "onnxruntime")


def _sherpa(files: ModelFiles, recipe: RecipeSettings, threads: int) -> _Opened:
    found = load_sherpa_graph(files.models[0], threads)
    layout, settings = found.graphs.layout, _features(files, recipe, found.bins, found.sample_rate)
    chunking = _chunking(files.models[0], layout)
    return _Opened(found.graphs, found.geometry, settings, chunking, 0.0, False, "onnxruntime")


def _chunking(path: Path, layout: CacheLayout) -> tuple[int, int]:
    """Return the chunk and left context of a graph. Raises ValueError unless positions remain for two chunks."""
    if layout.chunk * (layout.left + 2) >= MOST_FRAMES:
        raise ValueError(
            f"{path}: was exported for chunks of {layout.chunk} frames with {layout.left} to the left: of the "
            f"{MOST_FRAMES} positions of WeNet's encoders too few are left, and a stream would start anew at every "
            "chunk; export the checkpoint again with fewer chunks to the left, e.g. 4"
        )
    return layout.chunk, layout.shown_left


def _features(files: ModelFiles, recipe: RecipeSettings, bins: int, sample_rate: int | None) -> FeatureSettings:
    """Return the feature settings of the recipe, with the mel bins and the sample rate that the graph states."""
    settings = recipe.features._replace(bins=bins)
    if sample_rate is None or sample_rate == settings.sample_rate:
        return settings
    if files.recipe is not None:
        raise ValueError(
            f"{files.models[0]}: reads {sample_rate} Hz, but {files.recipe} has resample_rate {settings.sample_rate}: "
            "they belong to different models"
        )
    return settings._replace(sample_rate=sample_rate)


_OPEN = {SCRIPTED: _script, GRAPHS: _graphs, SHERPA: _sherpa}


def _vocabulary(files: ModelFiles, recipe: RecipeSettings) -> Path:
    """Return the path of the vocabulary: given or found, else the recipe's, tried in each folder above the model."""
    if files.units is not None:
        return files.units
    path = files.models[0]
    if recipe.vocabulary is not None:
        for folder in path.resolve().parents:
            if (folder / recipe.vocabulary).is_file():
                return folder / recipe.vocabulary
    sought = f"; {files.recipe} names {recipe.vocabulary}, which was not found" if recipe.vocabulary else ""
    raise FileNotFoundError(
        f"{path}: has no vocabulary: copy the recipe's units.txt (data/dict/lang_char.txt) beside it, or give it with "
        f"--units FILE (in Python: units=FILE){sought}"
    )


def _describe(files: ModelFiles, opened: _Opened, recipe: RecipeSettings, vocabulary: Vocabulary) -> Meta:
    geometry, settings = opened.geometry, opened.features
    frame_samples = geometry.subsampling * settings.shift_samples
    frame_seconds = frame_samples / settings.sample_rate
    chunk = recipe.static_chunk or max(1, round(CHUNK_SECONDS / frame_seconds))
    chunk, left = opened.chunking or (chunk, math.ceil(LEFT_SECONDS / (chunk * frame_seconds)))
    limits = [_RESTARTS, _ALONE, _NO_DELAY]
    if opened.chunking is not None:
        limits.insert(0, _FIXED)
    if not opened.has_decoder:
        limits.insert(0, _NO_DECODER)
    return Meta(
        kind=files.kind,
        sample_rate=settings.sample_rate,
        frame_samples=frame_samples,
        right_padding_samples=math.ceil(PADDING_SECONDS * settings.sample_rate),
        chunkings=((chunk, left),),
        default_chunk=chunk,
        default_left=left,
        vocabulary=vocabulary,
        decoder=opened.has_decoder,
        reverse_decoder=opened.has_decoder and geometry.is_bidirectional,
        ctc_weight=CTC_WEIGHT,
        reverse_weight=opened.reverse_weight,
        emission_delay=EmissionDelay(),
        state=(),
        precision=DYNAMIC if _QUANTISED in files.models[0].name else "float32",
        requires=opened.requires,
        latency={},
        config="",
        versions={},
        verification={},
        lookahead_samples=geometry.lookahead(settings),
        chunk_rule=ANY if opened.chunking is None else FIXED,
        restarts=True,
        batches=False,
        limits=tuple(limits),
    )
