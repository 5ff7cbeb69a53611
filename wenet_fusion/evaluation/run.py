"""Evaluate a trained model on a data.list: divide batches among ranks, decode, score, and write the results."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from wenet_fusion_runtime.files import printable
from wenet_fusion_runtime.model.acoustic_model import AcousticModel
from wenet_fusion_runtime.model.metadata import Meta
from wenet_fusion_runtime.results.result import Word
from wenet_fusion_runtime.search.modes import SEARCH_MODES
from wenet_fusion_runtime.stream.decoding_options import DecodingOptions

from wenet_fusion.config import to_yaml
from wenet_fusion.data.lists.manifest import scan_manifest
from wenet_fusion.data.progress_bar import progress_bar
from wenet_fusion.data.sources import Utterance
from wenet_fusion.evaluation.decode_list import (
    MAX_ROWS,
    BatchDecoder,
    Condition,
    DecodedBatch,
    DecodedList,
    collect,
    plan_batches,
)
from wenet_fusion.evaluation.options import EvaluationOptions, Variant
from wenet_fusion.evaluation.report.content import Fact
from wenet_fusion.evaluation.results import Evaluation, Found, Scored, scored, write_reports, write_results
from wenet_fusion.evaluation.stored_batches import StoredBatches
from wenet_fusion.model.chunking import chunking_label
from wenet_fusion.provenance import __version__, commit, processor, software
from wenet_fusion.ranks import Ranks
from wenet_fusion.scoring.ctm import read_word_times
from wenet_fusion.scoring.emission_delays import delay_percentiles, emission_delays
from wenet_fusion.scoring.timestamp_errors import match_all_words
from wenet_fusion.trained_model import TrainedModel, acoustic_model

_SOURCES = Path(__file__).parent


class Results(NamedTuple):
    """An evaluation and its scored conditions."""

    evaluation: Evaluation
    conditions: list[Scored]


def evaluate(
    trained: TrainedModel, data_list: Path, options: EvaluationOptions, result_dir: Path, ranks: Ranks = Ranks()
) -> Results | None:
    """Decode a data.list (each rank decodes its share of the batches), and write the results and the report.

    Batches that an interrupted run left in `result_dir` are used if that run had the same fingerprint: weights,
    configuration, vocabulary, audio, settings and code.

    Args:
        trained: the model.
        data_list: recordings with transcripts.
        options: modes, chunkings, variants.
        result_dir: folder for results.json, utterances.jsonl, the reports and a folder for each condition.
        ranks: the processes that share the work.

    Returns:
        The results on rank 0, None on the others.

    Raises:
        ValueError: the model lacks a part that a mode needs, or no utterance could be read.
        OSError: another rank failed.
    """
    model = acoustic_model(trained)
    _check(model, trained, options)
    utterances, problems = scan_manifest(data_list)
    spoken = read_word_times(options.ctm, {item.key: item.text for item in utterances})
    stored = StoredBatches(result_dir, fingerprint(trained, utterances, options))
    plan = dict(enumerate(plan_batches(utterances, options.max_batch_seconds)))
    found = _decode_all(BatchDecoder(model, trained.model.decoder, options), plan, stored, ranks)
    if ranks.rank:
        return None
    unreadable = found.unreadable
    skipped = problems + [f"{item.key}: {unreadable[item.key]}" for item in utterances if item.key in unreadable]
    references = {
        item.key: trained.tokenizer.transcript(item.text) for item in utterances if item.key not in unreadable
    }
    if not references:
        raise ValueError(f"no utterance of {data_list} could be read; the first problem: {skipped[0]}")
    evaluation = Evaluation(
        printable(trained.path), printable(data_list), options.counting, found.audio_seconds, references,
        _conditions(found, list(references), options, model, spoken), skipped, _facts(options, model, ranks),
    )  # fmt: skip
    results = Results(evaluation, scored(evaluation))
    write_results(*results, result_dir)
    write_reports(*results, result_dir)
    stored.finish()
    return results


def fingerprint(trained: TrainedModel, utterances: Sequence[Utterance], options: EvaluationOptions) -> str:
    """Return the SHA-256 of everything that the tokens depend on: weights, configuration, audio, settings, code.

    For audio files it covers path and modification time, for language models the digest in `Variant.sources`.
    """
    digest = hashlib.sha256()
    variants = [(name, replace(decoding, language_model=None), sources) for name, decoding, sources in options.variants]
    settings = (options.modes, options.chunkings, variants, options.max_batch_seconds, options.ctm is not None)
    code = (__version__, torch.__version__, commit(_SOURCES))
    digest.update(repr((to_yaml(trained.config), trained.tokenizer.vocabulary.tokens, settings, code)).encode())
    for name, weight in trained.model.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.contiguous().numpy().tobytes())
    changed = {path: _changed(path) for path in {item.source.path for item in utterances}}
    for item in utterances:
        part = (item.start, item.end, item.channel)
        digest.update(repr((item.key, item.source, item.seconds, part, changed[item.source.path])).encode())
    return digest.hexdigest()


def _changed(path: str) -> int | None:
    """Return when a file was changed; None if it cannot be found: decoding then reports its utterances."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return None


def _check(model: AcousticModel, trained: TrainedModel, options: EvaluationOptions) -> None:
    """Refuse modes, chunkings and variants that the model does not support, before any work."""
    without_decoder = [mode for mode, search in SEARCH_MODES.items() if not search.needs_decoder]
    if trained.model.decoder is None and not set(options.modes) <= set(without_decoder):
        raise ValueError(f"{trained.path} has no attention decoder; choose from {', '.join(without_decoder)}")
    for chunking in options.chunkings:
        if chunking_label(chunking) != "full":
            model.meta.check_chunk(chunking.size, chunking.left)
    for variant in options.variants:
        variant.decoding.resolved(model.meta).scorers(model.meta.vocabulary)


def _decode_all(
    decoder: BatchDecoder, plan: Mapping[int, Sequence[Utterance]], stored: StoredBatches, ranks: Ranks
) -> DecodedList:
    """Decode one batch at a time under every chunking, because a test set may be larger than the memory.

    Neither the plan of batches nor the results depend on the number of ranks, because a rank takes whole batches.
    """
    earlier = stored.resume() if ranks.rank == 0 else []
    done = ranks.first({batch.number for batch in earlier})
    share = ranks.share([number for number in plan if number not in done])
    mine: list[DecodedBatch] = []
    problem: Exception | None = None
    try:
        count = sum(len(plan[number]) for number in share)
        name = "decode" if ranks.world == 1 else f"decode, rank 0 of {ranks.world}"
        with progress_bar(None, count, name, "utt", disable=ranks.rank > 0) as bar:
            for number in share:
                mine.append(decoder.decode(number, plan[number]))
                stored.keep(ranks.rank, mine[-1])
                bar.update(len(plan[number]))
    except (ValueError, OSError) as error:  # raised below, after the other ranks know of it
        problem = error
    shares = ranks.all((mine, None if problem is None else str(problem)))
    if problem is not None:
        raise problem
    for rank, (_, reason) in enumerate(shares):
        if reason is not None:
            raise OSError(f"rank {rank} failed: {reason}")
    return collect(earlier + [batch for batches, _ in shares for batch in batches])


def _conditions(
    found: DecodedList,
    keys: list[str],
    options: EvaluationOptions,
    model: AcousticModel,
    spoken: Mapping[str, Sequence[Word]],
) -> list[Found]:
    """Return every condition with its utterances in the order of `keys`."""
    conditions = []
    for mode, variant in options.searches:
        for label in map(chunking_label, options.chunkings):
            way = Condition(mode, variant.name, label)
            ids, texts = found.tokens[way], found.texts(way, model.meta.vocabulary)
            seconds = found.encoder_seconds[way], found.search_seconds[way]
            delay = delay_percentiles(emission_delays(match_all_words(spoken, found.words.get(way, {}))))
            outputs = ({key: ids[key] for key in keys}, {key: texts[key] for key in keys})
            conditions.append(Found(*way, *outputs, *seconds, delay))
    return conditions


def _facts(options: EvaluationOptions, model: AcousticModel, ranks: Ranks) -> list[Fact]:
    """Return the settings, the commit, the machine and the software, for results.json and the report."""
    processes = "1 process" if ranks.world == 1 else f"{ranks.world} processes"
    threads = torch.get_num_threads()
    facts = [Fact(variant.name, _described(variant, model.meta)) for variant in options.variants]
    return [
        *facts,
        Fact("counted", options.counting.description),
        *([Fact("word times", printable(options.ctm))] if options.ctm else []),
        Fact("commit", commit(_SOURCES)),
        Fact(
            "machine",
            f"{processor()}; {processes} of {threads} thread{'s' * (threads != 1)}; batches of up to {MAX_ROWS} "
            "utterances",
        ),
        Fact("software", f"wenet_fusion {__version__}, {software()}"),
    ]


def _described(variant: Variant, meta: Meta) -> str:
    """Return in one line the settings that differ from the defaults or come from the model."""
    usual, found = vars(DecodingOptions()), vars(variant.decoding.resolved(meta))
    values = [
        f"{name} {value:g}" for name, value in found.items() if isinstance(value, (int, float)) and value != usual[name]
    ]
    return ", ".join([*values, *filter(None, [variant.sources])])
