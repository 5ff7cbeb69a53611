#!/usr/bin/env python3
"""Time the CTC searches and a step of the int8 encoder, in one process with one thread.

The weights are random, but the posteriors are peaked and mostly blank, as those of a trained CTC head. The searches
read the scores of noise, chunk by chunk, and return the best text after each chunk. Writes search.md and search.json.
"""

import math
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from parts.benchmark_report import Goal, goals_table, this_run, write_report
from parts.encoder_variants import torch_variant, tuned_encoder
from parts.random_models import Shape
from parts.runtime_calls import confidence
from parts.speed_setup import SEGMENT_SECONDS, measure, noise_of, parse_settings, peaked_model
from parts.timing import Timing
from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.model.acoustic_model import AcousticModel
from wenet_fusion_runtime.results.vocabulary import RESERVED, WORD_START, Vocabulary
from wenet_fusion_runtime.search.frame_scores import FrameScores
from wenet_fusion_runtime.search.greedy import GreedySearch
from wenet_fusion_runtime.search.hot_words import HotWord
from wenet_fusion_runtime.search.prefix_beam import PrefixBeamSearch
from wenet_fusion_runtime.search.scorer_set import ScorerSet, make_scorers
from wenet_fusion_runtime.stream.decoding_options import DecodingOptions

from wenet_fusion.evaluation.report.markdown import markdown_table
from wenet_fusion.model.chunking import Chunking, chunking_label
from wenet_fusion.trained_model import acoustic_model

GOAL = 0.10  # largest ratio of the beam search's time to the encoder's time
ENCODER, PREFIX_BEAM = "int8 encoder", "prefix beam"
BEAM_SIZE = 10
BLANK_SKIP = 0.98
HOT_WORDS = (100, 10_000)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

Calls = dict[str, Callable[[], object]]
Search = GreedySearch | PrefixBeamSearch


def main(arguments: Sequence[str] | None = None) -> int:
    settings = parse_settings(__doc__, arguments, "weights, audio and phrases")
    sizes, seed, noise = settings.sizes, settings.seed, noise_of(settings.seed)
    trained = peaked_model(sizes, noise, seed)
    model, chunking = acoustic_model(trained), sizes.chunkings[0]
    scores = scores_of(model, chunking, noise)
    confident = confidence(model, chunking, noise)

    blocks = blocks_of(scores, chunking.size)
    encoder = torch_variant(ENCODER, "float", tuned_encoder(trained, "int8", seed), frozen=True)
    step = encoder.prepare(Shape(chunking, 1))
    calls: Calls = {ENCODER: lambda: [step() for _ in blocks]}
    load_seconds, scorer_sets = hot_words_of(sizes.vocabulary, seed)
    calls |= {name: lambda make=make: run(make(), blocks) for name, make in searches(scorer_sets).items()}
    times = measure(calls, settings, chunking_label(chunking))
    record = this_run(seed, os.getloadavg()[0])

    frames = len(scores.blank)
    goals = [
        Goal(
            f"{chunking_label(chunking)}, beam {BEAM_SIZE}, {sizes.vocabulary} tokens: {PREFIX_BEAM} against the "
            f"{ENCODER}",
            GOAL, times[PREFIX_BEAM].median / times[ENCODER].median, at_most=True,
        )
    ]  # fmt: skip
    text = "\n\n".join(
        [
            "\n".join(record.lines()),
            f"{SEGMENT_SECONDS} s of noise, {frames} frames, in chunks of {chunking.size}. {settings.effort}; the "
            f"calls take turns. {sizes.vocabulary} tokens, of which the search reads the best "
            f"{scores.ids.shape[1]} in each frame. A frame's most probable token has a mean probability of "
            f"{confident.best:.2f}. It is blank in {100 * confident.blank:.0f} % of the frames.",
            times_table(times, frames, len(blocks)),
            f"{max(scorer_sets):,} hot words of 1 to 3 words: loading took {load_seconds:.2f} s.",
            goals_table(goals),
        ]
    )
    print(text)
    numbers = {name: timing._asdict() for name, timing in times.items()}
    write_report(settings.output, "search", text, {"run": record, "goals": goals, "frames": frames, "times": numbers})
    return 0


def scores_of(model: AcousticModel, chunking: Chunking, samples: np.ndarray) -> FrameScores:
    """Return the CTC scores of the samples, without an incomplete chunk at the end."""
    size = chunking.size * model.meta.frame_samples
    whole = samples[None, : len(samples) // size * size]
    return model.step(whole, [whole.shape[1]], *chunking, model.init_state(1, *chunking))[0].row(0)[0]


def blocks_of(scores: FrameScores, size: int) -> list[FrameScores]:
    return [scores.part(start, start + size) for start in range(0, len(scores.blank), size)]


def run(search: Search, blocks: Sequence[FrameScores]) -> str:
    for block in blocks:
        search.advance(block)
        search.hypotheses(1)
    return str(search.final_hypotheses(BEAM_SIZE)[0].ids)


def hot_words_of(vocabulary: int, seed: int) -> tuple[float, dict[int, ScorerSet]]:
    """Build hot word lists of several sizes. Return the processor seconds for the longest list, and the lists by size.
    The words are random pieces, because a search sees only token ids.
    """
    pieces, scorer_sets, seconds = random_pieces(vocabulary, seed), {}, 0.0
    for count in HOT_WORDS:
        phrases, begin = random_phrases(pieces, count, seed), time.thread_time()
        scorer_sets[count] = make_scorers(pieces, phrases)
        seconds = time.thread_time() - begin
    return seconds, scorer_sets


def searches(scorer_sets: Mapping[int, ScorerSet]) -> dict[str, Callable[[], Search]]:
    """Return functions that make a new search, by name."""
    pruned = DecodingOptions().token_threshold
    found: dict[str, Callable[[], Search]] = {
        "greedy": GreedySearch,
        PREFIX_BEAM: lambda: PrefixBeamSearch(BEAM_SIZE, token_threshold=pruned),
        f"{PREFIX_BEAM}, nothing pruned": lambda: PrefixBeamSearch(BEAM_SIZE, token_threshold=math.inf),
        f"{PREFIX_BEAM}, blank_skip_threshold {BLANK_SKIP}": lambda: PrefixBeamSearch(
            BEAM_SIZE, token_threshold=pruned, blank_skip_threshold=BLANK_SKIP
        ),
    }
    for count, scorers in scorer_sets.items():
        found[f"{PREFIX_BEAM}, {count:,} hot words"] = lambda scorers=scorers: PrefixBeamSearch(
            BEAM_SIZE, scorers=scorers, token_threshold=pruned
        )
    return found


def random_pieces(vocabulary: int, seed: int) -> Vocabulary:
    """Return a vocabulary of random pieces of 1 to 6 letters; about half of them start a word."""
    rng, pieces = random.Random(seed), dict.fromkeys(RESERVED)
    while len(pieces) < vocabulary:
        letters = "".join(rng.choices(LETTERS, k=rng.randint(1, 6)))
        pieces[WORD_START * rng.randint(0, 1) + letters] = None
    return Vocabulary(list(pieces), "pieces")


def random_phrases(vocabulary: Vocabulary, count: int, seed: int) -> list[HotWord]:
    """Return phrases of 1 to 3 words with 1 to 3 pieces each."""
    rng = random.Random(seed)
    pieces = vocabulary.tokens[len(RESERVED) :]
    first = [piece.removeprefix(WORD_START) for piece in pieces if piece.startswith(WORD_START)]
    other = [piece for piece in pieces if not piece.startswith(WORD_START)]

    def word() -> str:
        return rng.choice(first) + "".join(rng.choices(other, k=rng.randint(0, 2)))

    return [HotWord(" ".join(word() for _ in range(rng.randint(1, 3)))) for _ in range(count)]


def times_table(times: dict[str, Timing], frames: int, steps: int) -> str:
    alone = times[ENCODER].median
    rows = [
        [
            name,
            f"{timing.median / steps:.3f}",
            f"{1000 * timing.median / frames:.1f}",
            f"{100 * timing.median / alone:.1f} %",
        ]
        for name, timing in times.items()
    ]
    return markdown_table(["", "ms per chunk", "µs per frame", "of the encoder"], rows)


if __name__ == "__main__":
    run_main(main)
