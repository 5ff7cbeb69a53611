"""Evaluates a trained model on a data.list: plans batches, shares them among ranks, scores what was decoded."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from wenet_fusion_runtime.model.acoustic_model import AcousticModel
from wenet_fusion_runtime.model.metadata import Meta
from wenet_fusion_runtime.search.modes import GREEDY, PREFIX_BEAM, RESCORING
from wenet_fusion_runtime.stream.decoding_options import DecodingOptions

from wenet_fusion.config import to_yaml
from wenet_fusion.data.batching import epoch_batches
from wenet_fusion.data.manifest import scan_manifest
from wenet_fusion.data.progress_bar import progress_bar
from wenet_fusion.data.sources import Utterance
from wenet_fusion.evaluation.decode_list import BatchDecoder, DecodedBatch
from wenet_fusion.evaluation.options import ATTENTION, EvaluationOptions, Variant
from wenet_fusion.evaluation.progress import Progress
from wenet_fusion.evaluation.ranks import Ranks
from wenet_fusion.evaluation.report.content import Fact
from wenet_fusion.evaluation.results import Evaluation, Found, Scored, scored, write_reports, write_results
from wenet_fusion.model.chunking import chunking_label
from wenet_fusion.provenance import __version__, commit, processor, software
from wenet_fusion.trained_model import TrainedModel, acoustic_model

MAX_ROWS = 16  # utterances per step: more gains nothing on a CPU
_SOURCES = Path(__file__).parent


class Results(NamedTuple):
    evaluation: Evaluation
    conditions: list[Scored]


def evaluate(
    trained: TrainedModel, data_list: Path, options: EvaluationOptions, result_dir: Path, ranks: Ranks = Ranks()
) -> Results | None:
    """Decodes a data.list, each rank its share of the batches, and writes the results and the report.

    What an earlier run with the same settings left unfinished in `result_dir` is not done again.

    Returns:
        what was found, on rank 0; None on the others.

    Raises:
        ValueError: if the model lacks what a mode needs, or nothing could be read.
        OSError: another rank failed.
    """
    model = acoustic_model(trained)
    _check(model, trained, options)
    utterances, problems = scan_manifest(data_list)
    progress = Progress(result_dir, _identity(trained, utterances, options))
    batches = _decode_all(BatchDecoder(model, trained.model.decoder, options), utterances, options, progress, ranks)
    if ranks.rank:
        return None
    reasons = {key: reason for batch in batches for key, reason in batch.unreadable.items()}
    skipped = problems + [f"{item.key}: {reasons[item.key]}" for item in utterances if item.key in reasons]
    references = {item.key: item.text for item in utterances if item.key not in reasons}
    if not references:
        raise ValueError(f"no utterance of {data_list} could be read; the first problem: {skipped[0]}")
    evaluation = Evaluation(
        str(trained.path), str(data_list), options.counting, sum(batch.audio_seconds for batch in batches), references,
        _joined(batches, list(references), options, model), skipped, _facts(options, model, ranks),
    )  # fmt: skip
    results = Results(evaluation, scored(evaluation))
    write_results(*results, result_dir)
    write_reports(*results, result_dir)
    progress.finish()
    return results


def _check(model: AcousticModel, trained: TrainedModel, options: EvaluationOptions) -> None:
    """Before any work."""
    if (ATTENTION in options.modes or RESCORING in options.modes) and trained.model.decoder is None:
        raise ValueError(f"{trained.path} has no attention decoder; choose from {GREEDY}, {PREFIX_BEAM}")
    for chunking in options.chunkings:
        if chunking_label(chunking) != "full":
            model.meta.check_chunk(chunking.size, chunking.left)
    for variant in options.variants:
        variant.decoding.resolved(model.meta).scorers(model.meta.vocabulary)


def _identity(trained: TrainedModel, utterances: Sequence[Utterance], options: EvaluationOptions) -> str:
    """Of everything that the tokens depend on: weights, configuration, data, settings, code."""
    digest = hashlib.sha256()
    variants = [(name, replace(decoding, language_model=None), sources) for name, decoding, sources in options.variants]
    settings = (options.modes, options.chunkings, variants, options.max_batch_seconds)
    code = (__version__, torch.__version__, commit(_SOURCES))
    digest.update(repr((to_yaml(trained.config), trained.tokenizer.vocabulary.tokens, settings, code)).encode())
    for name, weight in trained.model.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.contiguous().numpy().tobytes())
    changed = {path: os.stat(path).st_mtime_ns for path in {item.source.path for item in utterances}}
    for item in utterances:
        digest.update(
            repr((item.key, item.source, item.seconds, item.start, item.end, changed[item.source.path])).encode()
        )
    return digest.hexdigest()


def _decode_all(
    decoder: BatchDecoder, utterances: Sequence[Utterance], options: EvaluationOptions, progress: Progress, ranks: Ranks
) -> list[DecodedBatch]:
    """One batch of audio at a time, under every chunking: a test set may be larger than the memory.

    The plan does not depend on the number of ranks, and a rank takes whole batches, so neither do the results.
    """
    plan = epoch_batches([item.seconds for item in utterances], options.max_batch_seconds, MAX_ROWS, seed=0, epoch=0)
    earlier = progress.resume() if ranks.rank == 0 else []
    done = ranks.first({batch.number for batch in earlier})
    share = ranks.share([number for number in range(len(plan)) if number not in done])
    mine: list[DecodedBatch] = []
    problem = None
    try:
        count = sum(len(plan[number]) for number in share)
        name = "decode" if ranks.world == 1 else f"decode, rank 0 of {ranks.world}"
        with progress_bar(None, count, name, "utt", disable=ranks.rank > 0) as bar:
            for number in share:
                mine.append(decoder.decode(number, [utterances[index] for index in plan[number]]))
                progress.keep(ranks.rank, mine[-1])
                bar.update(len(plan[number]))
    except (ValueError, OSError) as error:  # the others shall not wait
        problem = error
    shares = ranks.all((mine, problem and str(problem)))
    if problem is not None:
        raise problem
    for rank, (_, reason) in enumerate(shares):
        if reason is not None:
            raise OSError(f"rank {rank} failed: {reason}")
    return earlier + [batch for batches, _ in shares for batch in batches]


def _joined(
    batches: Sequence[DecodedBatch], keys: list[str], options: EvaluationOptions, model: AcousticModel
) -> list[Found]:
    """What the batches found, by condition, in the order of `keys`."""
    tokens: dict[tuple[str, str, str], dict[str, list[int]]] = {}
    seconds: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for batch in batches:
        for decoded in batch.decoded:
            condition = decoded.mode, decoded.variant, decoded.chunking
            tokens.setdefault(condition, {}).update(zip(batch.keys, decoded.tokens))
            seconds.setdefault(condition, []).append((decoded.encoder_seconds, decoded.search_seconds))
    found = []
    for mode, variant in options.searches:
        for chunking in map(chunking_label, options.chunkings):
            condition = mode, variant.name, chunking
            ids = {key: tokens[condition][key] for key in keys}
            texts = {key: model.meta.vocabulary.text(row) for key, row in ids.items()}
            found.append(Found(*condition, ids, texts, *map(sum, zip(*seconds[condition]))))
    return found


def _facts(options: EvaluationOptions, model: AcousticModel, ranks: Ranks) -> list[Fact]:
    processes = "1 process" if ranks.world == 1 else f"{ranks.world} processes"
    facts = [Fact(variant.name, _described(variant, model.meta)) for variant in options.variants]
    return [
        *facts,
        Fact("counted", options.counting.description),
        Fact("commit", commit(_SOURCES)),
        Fact(
            "machine",
            f"{processor()}; {processes} of {torch.get_num_threads()} threads; batches of up to {MAX_ROWS} utterances",
        ),
        Fact("software", f"wenet_fusion {__version__}, {software()}"),
    ]


def _described(variant: Variant, meta: Meta) -> str:
    """What differs from the defaults, and what the model decides, as one line."""
    usual, found = vars(DecodingOptions()), vars(variant.decoding.resolved(meta))
    values = [
        f"{name} {value:g}" for name, value in found.items() if isinstance(value, (int, float)) and value != usual[name]
    ]
    return ", ".join([*values, *filter(None, [variant.sources])])
