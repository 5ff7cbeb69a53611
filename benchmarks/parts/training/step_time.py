"""Measure training steps of FusionFormer and of a LayerNorm Conformer of the same shape: time, memory, and two ranks.

A step is the forward pass, backward pass and update of a loaded batch, in one thread. All variants take turns in one
process; the memory of each is measured in a separate process (on Linux).
"""

import argparse
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from parts.benchmark_report import Goal, goals_table
from parts.candidates import CONFORMER, OURS
from parts.random_models import conformer
from parts.timing import Timing, by_turns
from parts.training.rank_scaling import INDEPENDENT, ONE, measure_rank_scaling
from parts.training.step_memory import TOY_DECODER, TOY_ENCODER, Memory, measure_memory_in_this_process
from parts.training.training_setup import ACTIVATIONS, PRECISIONS, SetupSpec, StepVariant
from parts.training.wenet_package import INSTALL, package_folder
from parts.training.wenet_setup import make_setup
from tqdm import tqdm

from wenet_fusion.cli.train import bfloat16_instructions
from wenet_fusion.data.batching import BatchSize
from wenet_fusion.evaluation.report.markdown import markdown_table
from wenet_fusion.model.decoder import DecoderConfig
from wenet_fusion.model.encoder_config import EncoderConfig

NORM_ALONE = f"{OURS} with LayerNorm"  # only the norms differ
DEFAULT, LAYERS = ACTIVATIONS
# Modules that a new process would otherwise import during the measurement; the first optimiser imports torch._dynamo.
PRELOADED = ["torch._dynamo", "torch.distributed", "wenet_fusion.recipe", "wenet_fusion.training.optimisation.update"]
STEP_GOAL, MEMORY_GOAL = 1.1, 1.1  # largest ratios (of time and of memory) of FusionFormer to models with LayerNorm
WENETS, WENET_GOAL = "WeNet's own Conformer", 0.65  # largest ratio of the step times, ours to WeNet's
AS_WENET = (
    f"`{CONFORMER}` has the settings of WeNet's Conformer (`norm: layer`, `activation: swish`, `conv_gate: glu`, "
    "`positions: rel_pos`, as many subsampling channels as the encoder's width) but runs this toolkit's code. "
)
WITHOUT_WENET = "WeNet's own code is no part of this repository; `--wenet FOLDER` times its step too."
WITH_WENET = (
    f"`{WENETS}` is WeNet's code as Rev.com ships it in rev-reverb 0.1.0. It has the same shapes, both decoders, "
    "WeNet's optimiser (Adam) and our gradient clipping; all steps use the same chunk size. Its input is features "
    "for the same number of encoder frames, while our models compute features and masks within the step."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=8, help="utterances in a batch (default: 8)")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of each utterance (default: 8)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every variant (default: 5)")
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=PRECISIONS,
        help="precisions to measure (default: float32, and bfloat16 if the processor has instructions for it)",
    )
    parser.add_argument(
        "--wenet",
        type=Path,
        metavar="FOLDER",
        help=f"folder of WeNet's package, to time it too ({INSTALL.format(' --target FOLDER')}); needs torchaudio",
    )
    parser.add_argument("--quick", action="store_true", help="use toy models and 1 round, to test the program")


def measure(args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Return the section's text and its numbers."""
    if min(args.rows, args.rounds) < 1 or not 1 <= args.seconds <= 60:
        raise ValueError("--rows and --rounds must be 1 or more, --seconds between 1 and 60")
    precisions = args.precisions or PRECISIONS[: 2 if bfloat16_instructions() else 1]
    encoder, decoder = (TOY_ENCODER, TOY_DECODER) if args.quick else (EncoderConfig(), DecoderConfig())
    seconds, rounds = (1.0, 1) if args.quick else (args.seconds, args.rounds)
    encoders = {OURS: encoder, NORM_ALONE: replace(encoder, norm="layer"), CONFORMER: conformer(encoder)}
    size = BatchSize(rows=args.rows, seconds=seconds, tokens=int(4 * seconds))
    specs = {name: SetupSpec(config, decoder, size, args.seed) for name, config in encoders.items()}
    if args.wenet is not None:
        specs[WENETS] = SetupSpec(encoder, decoder, size, args.seed, package_folder(args.wenet))
    variants = [
        StepVariant(name, precision, activations)
        for precision in precisions
        for name in specs
        for activations in ACTIVATIONS
        if activations == DEFAULT or name != WENETS  # WeNet's model keeps all activations
    ]
    times, memory = time_steps(specs, variants, rounds), measure_memory(specs, variants)
    ranks = {name: measure_rank_scaling(specs[name], precisions[0], rounds) for name in (OURS, CONFORMER)}
    audio = args.rows * seconds
    goals = find_goals(times, memory, precisions)
    text = "\n\n".join(
        [
            f"Batches of {args.rows} x {seconds:g} s; medians of {rounds} rounds; vector instructions of torch: "
            f"{torch.backends.cpu.get_cpu_capability()}, for bfloat16 {' '.join(bfloat16_instructions()) or 'none'}. "
            'Audio hours per hour count the steps alone, without loading. "MB kept" is the size of the tensors that '
            'the forward pass keeps for the backward pass. "MB at most" is the peak memory of the process minus its '
            f'memory before the model is built. "{LAYERS}" is with `checkpoint_activations`.',
            variants_table(times, memory, audio),
            "Ratios:",
            ratios_table(times, memory, precisions),
            goals_table(goals),
            AS_WENET + (WITHOUT_WENET if args.wenet is None else WITH_WENET),
            f"The next table compares one rank and two ranks on two cores (gloo, {precisions[0]}; each rank has a "
            f"thread and a batch). `{INDEPENDENT}` run at the same time and share only the machine:",
            ranks_table(ranks, audio),
        ]
    )
    record = {
        "audio_seconds": audio,
        "encoders": encoders,
        "wenet": args.wenet is not None,
        "steps": {
            variant.name: {**times[variant.name]._asdict(), **memory[variant.name]._asdict()} for variant in variants
        },
        "ranks": {name: {how: timing._asdict() for how, timing in found.items()} for name, found in ranks.items()},
        "goals": goals,
    }
    return text, record


def time_steps(specs: dict[str, SetupSpec], variants: Sequence[StepVariant], rounds: int) -> dict[str, Timing]:
    """Time the steps of all variants by turns. The variants of a model use the same weights."""
    precisions = tuple(dict.fromkeys(variant.precision for variant in variants))
    setups = {name: make_setup(spec, precisions) for name, spec in specs.items()}
    calls = {
        variant.name: setups[variant.model].step_function(variant.precision, variant.activations)
        for variant in variants
    }
    with tqdm(total=rounds * len(calls), desc="steps", unit="turn", leave=False, disable=None) as bar:
        return by_turns(calls, rounds, 1, bar.update)


def measure_memory(specs: dict[str, SetupSpec], variants: Sequence[StepVariant]) -> dict[str, Memory]:
    """Measure the memory of each variant in a new process, forked from one that has imported `PRELOADED`."""
    multiprocessing.set_forkserver_preload(PRELOADED)
    context, found = multiprocessing.get_context("forkserver"), {}
    for variant in tqdm(variants, desc="memory", leave=False, disable=None):
        with ProcessPoolExecutor(1, mp_context=context) as process:
            found[variant.name] = process.submit(measure_memory_in_this_process, specs[variant.model], variant).result()
    return found


# ---- tables


def ratios(precisions: Sequence[str], others: Sequence[str]) -> list[tuple[str, StepVariant, StepVariant]]:
    """Return the ratios to report: name, variant in the numerator, variant in the denominator."""
    found = []
    for precision in precisions:
        ours = StepVariant(OURS, precision, DEFAULT)
        found += [(f"{OURS} to {other}, {precision}", ours, StepVariant(other, precision, DEFAULT)) for other in others]
        for model in (OURS, CONFORMER):
            checked = StepVariant(model, precision, LAYERS)
            name = f"`checkpoint_activations` to without, {model}, {precision}"
            found.append((name, checked, checked.without_checkpointing))
    if len(precisions) > 1:
        for model in (OURS, CONFORMER):
            pair = [StepVariant(model, precision, DEFAULT) for precision in ("bfloat16", "float32")]
            found.append((f"bfloat16 to float32, {model}", pair[0], pair[1]))
    return found


def others_timed(times: Mapping[str, Timing], precision: str) -> list[str]:
    """Return the other models that were timed, with which ours is compared."""
    return [name for name in (CONFORMER, NORM_ALONE, WENETS) if StepVariant(name, precision, DEFAULT).name in times]


def find_goals(times: dict[str, Timing], memory: dict[str, Memory], precisions: Sequence[str]) -> list[Goal]:
    goals = []
    for other in others_timed(times, precisions[0]):
        pair = StepVariant(OURS, precisions[0], DEFAULT).name, StepVariant(other, precisions[0], DEFAULT).name
        step, peak = times[pair[0]].median / times[pair[1]].median, memory[pair[0]].peak / memory[pair[1]].peak
        wanted = WENET_GOAL if other == WENETS else STEP_GOAL
        goals.append(Goal(f"time of a step, {OURS} / {other}", wanted, step, at_most=True))
        goals.append(Goal(f"peak memory, {OURS} / {other}", MEMORY_GOAL, peak, at_most=True))
    return goals


def variants_table(times: dict[str, Timing], memory: dict[str, Memory], audio: float) -> str:
    head = ["model, precision, activations", "ms per step", "quartiles", "audio h per h", "MB kept", "MB at most"]
    rows = [
        [
            name,
            f"{time.median:.0f}",
            f"{time.low:.0f}–{time.high:.0f}",
            f"{1000 * audio / time.median:.1f}",
            f"{memory[name].saved / 1e6:.1f}",
            f"{memory[name].peak / 1e6:.0f}",
        ]
        for name, time in times.items()
    ]
    return markdown_table(head, rows)


def ratios_table(times: dict[str, Timing], memory: dict[str, Memory], precisions: Sequence[str]) -> str:
    rows = [
        [
            what,
            f"{times[top.name].median / times[below.name].median:.3f}",
            f"{memory[top.name].saved / memory[below.name].saved:.3f}",
            f"{memory[top.name].peak / memory[below.name].peak:.3f}",
        ]
        for what, top, below in ratios(precisions, others_timed(times, precisions[0]))
    ]
    return markdown_table(["ratio", "step", "MB kept", "MB at most"], rows)


def ranks_table(ranks: dict[str, dict[str, Timing]], audio: float) -> str:
    rows = []
    for model, found in ranks.items():
        for how, time in found.items():
            batches = 1 if how == ONE else 2
            speed = batches * found[ONE].median / time.median
            hours = f"{1000 * batches * audio / time.median:.1f}"
            rows.append([f"{model}, {how}", f"{time.median:.0f}", hours, f"{speed:.2f}"])
    return markdown_table(["ranks", "ms per step", "audio h per h", "speed relative to one rank"], rows)
