"""Error rates of a trained model in many decoding modes and chunkings, one pass over the encoder for each chunking."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from wenet_fusion.attention_search import attention_search
from wenet_fusion.chunking import Chunking, chunking_label
from wenet_fusion.data.batching import epoch_batches
from wenet_fusion.data.manifest import Utterance, read_manifest
from wenet_fusion.data.sources import read_samples
from wenet_fusion.deployment import acoustic_model
from wenet_fusion.error_rate import Scoring, score
from wenet_fusion.files import write_text
from wenet_fusion.recipe import TrainedModel
from wenet_fusion_runtime.acoustic_model import AcousticModel, StepScores
from wenet_fusion_runtime.decoding import GREEDY, MODES, PREFIX_BEAM, RESCORING, DecodingOptions, decode_rows, offline_step
from wenet_fusion_runtime.result import Result

ATTENTION = "attention"
ALL_MODES = (GREEDY, PREFIX_BEAM, ATTENTION, RESCORING)
MAX_ROWS = 16  # utterances per step: more gains nothing on a CPU


@dataclass(frozen=True)
class EvaluationOptions:
    modes: tuple[str, ...] = ALL_MODES
    chunkings: tuple[Chunking, ...] = ()
    beam_size: int = 10
    ctc_weight: float | None = None  # None: the model's
    reverse_weight: float | None = None
    max_batch_seconds: float = 100.0
    unit: str = "word"  # what errors are counted in: word or char

    def __post_init__(self) -> None:
        unknown = [mode for mode in self.modes if mode not in ALL_MODES]
        if unknown or not self.modes:
            raise ValueError(f"unknown decoding modes {unknown}; choose from {', '.join(ALL_MODES)}")
        if not self.chunkings:
            raise ValueError("no chunking was given; choose 'full' or SIZE/LEFT such as 16/4")


@dataclass(frozen=True)
class Row:
    """One line of the result table."""

    mode: str
    chunking: str
    wer: float  # fraction
    substitutions: int
    deletions: int
    insertions: int
    words: int
    utterances: int
    utterances_wrong: int


@dataclass(frozen=True)
class Evaluation:
    rows: list[Row]
    skipped: list[str]  # messages of utterances whose audio could not be read


def evaluate(trained: TrainedModel, data_list: Path, options: EvaluationOptions, result_dir: Path) -> Evaluation:
    """Decodes a data.list and writes `results.json` and, for each mode and chunking, `text`, `tokens` and `wer`.

    Search, rescoring and the silent tail are the runtime's own, so streaming the same audio through an exported file
    gives the same tokens.

    Raises:
        ValueError: if the model lacks what a mode needs, or nothing could be read.
    """
    if (ATTENTION in options.modes or RESCORING in options.modes) and trained.model.decoder is None:
        raise ValueError(f"{trained.path} has no attention decoder; choose from {GREEDY}, {PREFIX_BEAM}")
    model = acoustic_model(trained)
    _check_chunkings(model, options.chunkings)
    utterances = read_manifest(data_list)
    decoded, reasons = _decode_all(trained, model, utterances, options)
    skipped = [f"{utterance.key}: {reasons[utterance.key]}" for utterance in utterances if utterance.key in reasons]
    if len(skipped) == len(utterances):
        raise ValueError(f"no utterance of {data_list} could be read; the first problem: {skipped[0]}")
    references = {utterance.key: utterance.text for utterance in utterances if utterance.key not in reasons}

    rows = [
        _write_mode(mode, chunking, decoded[chunking][mode], references, model, options.unit, result_dir)
        for chunking in options.chunkings
        for mode in options.modes
    ]
    result = Evaluation(rows, skipped)
    content = {"checkpoint": str(trained.path), "data": str(data_list), "rows": [vars(row) for row in rows], "skipped": skipped}
    write_text(result_dir / "results.json", json.dumps(content, indent=1))
    return result


def _check_chunkings(model: AcousticModel, chunkings: Sequence[Chunking]) -> None:
    for chunking in chunkings:
        if chunking_label(chunking) != "full":
            model.meta.check_chunk(chunking.size, chunking.left)


class _Decoded(NamedTuple):
    ids: dict[Chunking, dict[str, dict[str, list[int]]]]  # by chunking, mode and key
    unreadable: dict[str, str]  # reasons by key


def _decode_all(
    trained: TrainedModel, model: AcousticModel, utterances: Sequence[Utterance], options: EvaluationOptions
) -> _Decoded:
    """One batch of audio at a time, under every chunking: a test set may be larger than the memory."""
    seconds = [utterance.seconds for utterance in utterances]
    found = _Decoded({chunking: {mode: {} for mode in options.modes} for chunking in options.chunkings}, {})
    with tqdm(total=len(utterances), desc="decode", unit="utt", dynamic_ncols=True) as bar:
        for indices in epoch_batches(seconds, options.max_batch_seconds, MAX_ROWS, seed=0, epoch=0):
            samples = _read([utterances[index] for index in indices], model.meta.sample_rate, found.unreadable)
            for chunking in options.chunkings if samples else ():
                step = offline_step(model, list(samples.values()), chunking.size, chunking.left)
                for mode, rows in _decode_modes(trained, model, step, options).items():
                    found.ids[chunking][mode].update(zip(samples, rows))
            bar.update(len(indices))
    return found


def _read(batch: Sequence[Utterance], sample_rate: int, unreadable: dict[str, str]) -> dict[str, np.ndarray]:
    """Samples by key; reasons of those that cannot be read go to `unreadable`."""
    samples = {}
    for utterance in batch:
        try:
            samples[utterance.key] = read_samples(utterance, sample_rate)
        except (ValueError, OSError) as error:
            unreadable[utterance.key] = str(error)
    return samples


def _decode_modes(
    trained: TrainedModel, model: AcousticModel, step: StepScores, options: EvaluationOptions
) -> dict[str, list[list[int]]]:
    decoded: dict[str, list[list[int]]] = {}
    modes = [mode for mode in MODES if mode in options.modes]
    if RESCORING in modes and PREFIX_BEAM in modes:
        modes.remove(PREFIX_BEAM)  # rescoring has searched already and keeps the scores of the search
    for mode in modes:
        results = decode_rows(
            model, step, DecodingOptions(mode, options.beam_size, options.ctc_weight, options.reverse_weight)
        )
        decoded[mode] = [_ids(row, by_ctc=False) for row in results]
        if mode == RESCORING and PREFIX_BEAM in options.modes:
            decoded[PREFIX_BEAM] = [_ids(row, by_ctc=True) for row in results]
    if ATTENTION in options.modes:
        decoded[ATTENTION] = [
            list(attention_search(trained.model.decoder, torch.from_numpy(step.row(b)[1]), options.beam_size)[0].ids)
            for b in range(len(step.lengths))
        ]
    return decoded


def _ids(segments: Sequence[Result], by_ctc: bool) -> list[int]:
    ids: list[int] = []
    for segment in segments:
        hypotheses = segment.hypotheses
        best = max(hypotheses, key=lambda hypothesis: hypothesis.ctc_score) if by_ctc else hypotheses[0]
        ids += best.ids
    return ids


def _write_mode(
    mode: str,
    chunking: Chunking,
    hypotheses: Mapping[str, list[int]],
    references: Mapping[str, str],
    model: AcousticModel,
    unit: str,
    result_dir: Path,
) -> Row:
    label = chunking_label(chunking)
    directory = result_dir / f"{mode}.{label.replace('/', '-')}"
    directory.mkdir(parents=True, exist_ok=True)
    texts = {key: model.meta.units.text(hypotheses[key]) for key in references}
    scored: Scoring = score(references, texts, unit)
    write_text(directory / "text", "".join(f"{key} {text}".rstrip() + "\n" for key, text in texts.items()))
    write_text(directory / "tokens", "".join(" ".join([key, *map(str, hypotheses[key])]) + "\n" for key in references))
    write_text(directory / "wer", scored.report())
    total = scored.total
    return Row(
        mode, label, total.rate, total.substitutions, total.deletions, total.insertions, total.reference,
        len(references), sum(utterance.counts.errors > 0 for utterance in scored.utterances),
    )
