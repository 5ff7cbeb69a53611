"""Forced alignment: timestamps of known transcripts, and a score of how well a transcript fits its audio.

Shapes: T encoder frames, D width, V vocabulary.
"""

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchaudio.functional import forced_align
from wenet_fusion_runtime.files import write_text
from wenet_fusion_runtime.results.formats import ctm_lines
from wenet_fusion_runtime.results.result import Token, Word
from wenet_fusion_runtime.results.timestamps import EmissionDelay, Span, correct_emission_delay
from wenet_fusion_runtime.results.words import group_words
from wenet_fusion_runtime.stream.offline import offline_step

from wenet_fusion.data.judgement import Skip
from wenet_fusion.data.lists.manifest import Utterance
from wenet_fusion.data.progress_bar import progress_bar
from wenet_fusion.evaluation.decode_list import plan_batches, read_batch
from wenet_fusion.evaluation.timestamps.textgrid import format_textgrid
from wenet_fusion.model.chunking import FULL_CONTEXT, Chunking
from wenet_fusion.model.ctc import BLANK, frames_needed
from wenet_fusion.trained_model import TrainedModel, acoustic_model

MAX_FULL_CONTEXT_SECONDS = 300.0  # the memory of full context grows with the square of the duration


class TokenRun(NamedTuple):
    """The consecutive frames of a token in an alignment."""

    start: int
    stop: int
    peak: float  # highest posterior of the token in these frames, 0 to 1


class BestPath(NamedTuple):
    """The most probable alignment of a token sequence."""

    runs: tuple[TokenRun, ...]  # one for each token
    log_prob: float  # log-probability of the alignment: sum over all frames, in nats


class AlignedUtterance(NamedTuple):
    """A transcript with timestamps, in seconds from the start of the utterance."""

    key: str
    seconds: float  # duration of the audio
    words: tuple[Word, ...]
    tokens: tuple[Token, ...]
    score: float  # log-probability of the alignment per frame: low if transcript and audio differ

    @property
    def confidence(self) -> float:
        """Geometric mean of the posteriors along the alignment, 0 to 1."""
        return math.exp(self.score)


class AlignmentOptions(NamedTuple):
    """Chunking of the encoder, and the emission delay to correct.

    >>> AlignmentOptions(Chunking(16, 4)).chunking.size
    16
    """

    chunking: Chunking = FULL_CONTEXT
    emission_delay: EmissionDelay = EmissionDelay()  # as export measures it; zero: timestamps are emission times


class Aligned(NamedTuple):
    """The alignments of a list of utterances."""

    utterances: list[AlignedUtterance]  # in the order of the list
    skipped: list[str]  # utterances that could not be aligned, with reasons

    def worst(self, count: int) -> list[AlignedUtterance]:
        """Return the utterances with the lowest scores, lowest first."""
        return sorted(self.utterances, key=lambda utterance: utterance.score)[:count]


def best_path(log_probs_TV: Tensor, ids: Sequence[int]) -> BestPath:
    """Find the most probable CTC alignment of `ids`, which may be empty (Viterbi, with torchaudio's `forced_align`).

    Args:
        log_probs_TV: log-posteriors of T frames, float32, on the CPU.
        ids: tokens of the transcript.

    Raises:
        ValueError: there are fewer frames than the tokens need.
    """
    frames, needed = log_probs_TV.size(0), frames_needed(ids)
    if frames < needed:
        raise ValueError(f"{frames} frames are too few for the {needed} that its {len(ids)} tokens need")
    if not ids:  # torchaudio requires a token
        return BestPath((), float(log_probs_TV[:, BLANK].sum()))
    path, log_probs = forced_align(log_probs_TV.unsqueeze(0), torch.tensor([ids], dtype=torch.int32), blank=BLANK)
    path, log_probs = path[0].numpy(), log_probs[0].numpy()
    bounds = [0, *(np.flatnonzero(np.diff(path)) + 1).tolist(), frames]
    runs = tuple(
        TokenRun(start, stop, float(np.exp(log_probs[start:stop].max())))
        for start, stop in itertools.pairwise(bounds)
        if path[start] != BLANK
    )
    return BestPath(runs, float(log_probs.sum(dtype=np.float64)))


def align(
    trained: TrainedModel, utterances: Sequence[Utterance], options: AlignmentOptions = AlignmentOptions()
) -> Aligned:
    """Align utterances with their transcripts; list those that cannot be aligned, with the reasons.

    Raises:
        ValueError: there is no utterance; none could be aligned; or the model was not trained for the chunking. Every
            model accepts full context.
    """
    if not utterances:
        raise ValueError("there is no utterance to align: give at least one")
    aligner = _Aligner(trained, options)
    found: dict[str, AlignedUtterance | Skip] = {}
    with progress_bar(None, len(utterances), "align", "utt") as bar:
        for batch in plan_batches(utterances):
            found |= aligner.batch(batch)
            bar.update(len(batch))
    ordered = [found[utterance.key] for utterance in utterances]
    aligned = [item for item in ordered if isinstance(item, AlignedUtterance)]
    skipped = [str(item) for item in ordered if isinstance(item, Skip)]
    if not aligned:
        raise ValueError(f"none of the {len(skipped)} utterances could be aligned; the first problem: {skipped[0]}")
    return Aligned(aligned, skipped)


class _Aligner:
    """Align batches with a model."""

    def __init__(self, trained: TrainedModel, options: AlignmentOptions) -> None:
        self._model = acoustic_model(trained)
        self._ctc, self._tokenizer = trained.model.ctc, trained.tokenizer
        self._options = options
        if options.chunking != FULL_CONTEXT:
            self._model.meta.check_chunk(*options.chunking)

    def batch(self, utterances: Sequence[Utterance]) -> dict[str, AlignedUtterance | Skip]:
        """Return for each key the alignment, or the reason for skipping the utterance."""
        found: dict[str, AlignedUtterance | Skip] = {}
        ids: dict[str, list[int]] = {}
        for utterance in utterances:
            try:
                self._check_seconds(utterance.seconds)
                ids[utterance.key] = self._tokenizer.encode(utterance.text)
            except ValueError as error:
                found[utterance.key] = Skip(utterance.key, str(error))
        usable = [utterance for utterance in utterances if utterance.key in ids]
        samples, unreadable = read_batch(usable, self._model.meta.sample_rate)
        found |= {key: Skip(key, reason) for key, reason in unreadable.items()}
        if samples:
            for key, log_probs_TV in zip(samples, self._log_probs(list(samples.values()))):
                try:
                    found[key] = self._align(key, log_probs_TV, ids[key], len(samples[key]))
                except ValueError as error:
                    found[key] = Skip(key, str(error))
        return found

    def _check_seconds(self, seconds: float) -> None:
        if self._options.chunking == FULL_CONTEXT and seconds > MAX_FULL_CONTEXT_SECONDS:
            raise ValueError(
                f"{seconds:.0f} s are more than the {MAX_FULL_CONTEXT_SECONDS:.0f} s that full context allows; "
                "align it in chunks, such as "
                f"--chunking {self._model.meta.default_chunk}/{self._model.meta.default_left}"
            )

    @torch.inference_mode()
    def _log_probs(self, samples: Sequence[np.ndarray]) -> list[Tensor]:
        """Return the log-posteriors (T, V) of each utterance, including the frames of the right padding."""
        step = offline_step(self._model, samples, *self._options.chunking)
        rows = (step.row(index) for index in range(len(samples)))
        return [self._ctc(torch.from_numpy(encoder_out_1TD))[0] for _, encoder_out_1TD in rows]

    def _align(self, key: str, log_probs_TV: Tensor, ids: Sequence[int], samples: int) -> AlignedUtterance:
        meta = self._model.meta
        path = best_path(log_probs_TV, ids)
        seconds, frame = samples / meta.sample_rate, meta.frame_seconds
        # As in the runtime, the time of a token is the first frame that emits it.
        emitted = [Span(run.start * frame, (run.start + 1) * frame) for run in path.runs]
        spans = correct_emission_delay(emitted, self._options.emission_delay, 0.0, seconds)
        tokens = tuple(
            Token(token, meta.vocabulary.tokens[token], *span, run.peak)
            for token, span, run in zip(ids, spans, path.runs)
        )
        words = group_words(tokens, meta.vocabulary).words
        return AlignedUtterance(key, seconds, words, tokens, path.log_prob / log_probs_TV.size(0))


def write_alignment(aligned: Aligned, folder: Path) -> None:
    """Write words.ctm, tokens.ctm, textgrid/KEY.TextGrid, and alignment.json with scores and skipped utterances."""
    (folder / "textgrid").mkdir(parents=True, exist_ok=True)
    write_text(folder / "words.ctm", "".join(ctm_lines(item.key, item.words) for item in aligned.utterances))
    write_text(folder / "tokens.ctm", "".join(ctm_lines(item.key, item.tokens) for item in aligned.utterances))
    for item in aligned.utterances:
        name = item.key.replace("%", "%25").replace("/", "%2F")  # keys in shards may contain slashes
        tiers: dict[str, Sequence[Word | Token]] = {"words": item.words, "tokens": item.tokens}
        write_text(folder / "textgrid" / f"{name}.TextGrid", format_textgrid(tiers, item.seconds))
    rows = [
        {
            "key": item.key,
            "seconds": round(item.seconds, 3),
            "words": len(item.words),
            "tokens": len(item.tokens),
            "score": item.score,
            "confidence": item.confidence,
        }
        for item in aligned.utterances
    ]
    content = {"utterances": rows, "skipped": aligned.skipped}
    write_text(folder / "alignment.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
