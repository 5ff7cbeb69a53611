#!/usr/bin/env python3
"""Measure the server: throughput of batches, latency of simultaneous sessions in real time, memory, and start times.

Two models are measured: a 12-layer encoder with random weights, in int8 with constant scales; and a trained MODEL,
whose sessions with the recordings of LIST must give the texts of offline evaluation. Sessions run on the real server,
with clients in another process; server and clients share the cores that this process may use. Writes serving.md and
serving.json.
"""

import argparse
import itertools
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from parts.benchmark_report import Goal, goals_table, this_run, write_report
from parts.serving.served_models import ServedModel, load_trained_model, make_large_model, streamed_texts, to_float
from parts.serving.serving_measures import Start, Throughput, memory_of, new_process, throughput
from parts.serving.serving_memory import Memory
from parts.serving.serving_sessions import RealTime, ServerSetup, real_time
from parts.speed_setup import QUICK, SIZES, Sizes
from tqdm import tqdm
from wenet_fusion_runtime import EngineOptions
from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.model.backends import NATIVE, ONNXRUNTIME, TORCH

from wenet_fusion.evaluation.report.markdown import markdown_table
from wenet_fusion.model.chunking import chunking_label

# Milliseconds from the end of a chunk to its result: for 95 % of the chunks; for a first chunk on an idle server.
DELAY_GOAL, FIRST_GOAL = 300.0, 50.0
BATCH_GOALS = {4: 2.0, 16: 1.4}  # by frames per chunk: throughput relative to sequential streams
LOAD_GOAL = 3.0  # seconds to load a model and warm up
# Largest ratios: first chunk to median chunk; largest memory to memory after a tenth of the work.
FIRST_CHUNK_GOAL, MEMORY_GOAL = 2.0, 1.05
QUANTILES = (0.5, 0.95, 1.0)


class Work(NamedTuple):
    """The amount of work to measure."""

    sizes: Sizes  # sizes of the large encoder
    sessions: tuple[int, ...]  # numbers of simultaneous sessions of the large encoder
    trained_sessions: int  # number of simultaneous sessions of the trained model
    longest_seconds: float  # length of the longest noise recording
    seconds: float  # duration of the sessions in real time
    idle_seconds: float  # length of the audio of a session on an idle server
    rounds: int  # rounds of the throughput measurement
    streams: int  # streams in each turn of the throughput measurement
    turn_seconds: float  # length of each of these streams
    in_sequence: int  # memory measurement: number of sequential sessions
    long_seconds: float  # memory measurement: length of the long stream
    starts: int  # number of new processes
    start_seconds: float  # length of the audio for each new process
    recordings: int | None  # number of recordings to use from LIST; None: all


FULL_WORK = Work(SIZES, (64, 128), 200, 12.0, 12.0, 2.0, 5, 16, 6.4, 1000, 7200.0, 5, 20.0, None)
QUICK_WORK = Work(QUICK, (4,), 4, 3.0, 1.0, 1.0, 1, 4, 1.0, 20, 20.0, 1, 5.0, 3)


class LiveResult(NamedTuple):
    """The result of one measurement of simultaneous sessions in real time."""

    what: str  # model and number of sessions
    sessions: int  # number of simultaneous sessions
    result: RealTime
    wrong: int  # number of sessions that failed or had an unexpected text
    goals: list[Goal]


class Measured(NamedTuple):
    throughput: dict[tuple[str, int], Throughput]  # by model and frames per chunk
    live: list[LiveResult]
    starts: dict[str, Start]
    memory: dict[str, Memory]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL", help="exported file of a trained model")
    parser.add_argument(
        "list", type=Path, metavar="LIST", help="data.list of recordings for MODEL (JSON lines with `wav`)"
    )
    parser.add_argument(
        "--backend", nargs="+", choices=(TORCH, NATIVE, ONNXRUNTIME), default=[TORCH],
        help="backends for the large encoder, measured one after the other (default: torch)",
    )  # fmt: skip
    parser.add_argument(
        "--sessions", type=int, nargs="+",
        help="simultaneous sessions of the large encoder; the first number has a goal (default: 64 128)",
    )  # fmt: skip
    parser.add_argument("--trained_sessions", type=int, help="simultaneous sessions of MODEL (default: 200)")
    parser.add_argument("--processes", type=int, default=1, help="processes of the server, on one port (default: 1)")
    parser.add_argument("--workers", type=int, default=2, help="threads that run a model, per process (default: 2)")
    parser.add_argument("--max_batch", type=int, default=16, help="largest number of streams in a step (default: 16)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, noise and client starts (default: 0)")
    parser.add_argument("--quick", action="store_true", help="use a toy encoder and little work, to test the program")
    parser.add_argument("--output", type=Path, required=True, help="folder for the tables and the numbers")
    args = parser.parse_args(arguments)
    work = QUICK_WORK if args.quick else FULL_WORK
    work = work._replace(
        sessions=tuple(args.sessions or work.sessions), trained_sessions=args.trained_sessions or work.trained_sessions
    )
    if min(*work.sessions, work.trained_sessions) < 1:
        raise ValueError("--sessions and --trained_sessions must be 1 or more")
    if args.processes < 1:
        raise ValueError("--processes must be 1 or more")
    setup = ServerSetup(EngineOptions(workers=args.workers, max_batch=args.max_batch), args.processes)
    torch.set_num_threads(1)
    trained = load_trained_model(args.model, args.list, work.recordings)
    with tempfile.TemporaryDirectory() as folder:
        large_models = [
            make_large_model(work.sizes, Path(folder), work.longest_seconds, args.seed, backend)
            for backend in dict.fromkeys(args.backend)
        ]
        found = Measured(
            measure_throughput(work, large_models, args.max_batch),
            measure_live(work, large_models, trained, setup, args.seed),
            measure_starts(work, *large_models, trained),
            measure_memory(work, trained),
        )
    run = this_run(args.seed, os.getloadavg()[0])
    goals = all_goals(found)
    text = "\n\n".join(["\n".join(run.lines()), describe(work, setup, found), goals_table(goals)])
    print(text)
    write_report(args.output, "serving", text, {"run": run, "goals": goals, **record(found)})
    return 0


# ---- measuring


def measure_throughput(
    work: Work, large_models: Sequence[ServedModel], max_batch: int
) -> dict[tuple[str, int], Throughput]:
    first = large_models[0]
    clip = int(work.turn_seconds * first.sample_rate)
    whole = itertools.cycle([samples for samples in first.recordings if len(samples) >= clip])
    streams = [to_float(samples[:clip]) for samples in itertools.islice(whole, work.streams)]
    tasks = [(large, chunking.size) for chunking in work.sizes.chunkings for large in large_models]
    with tqdm(total=3 * work.rounds * len(tasks), desc="throughput", leave=False, disable=None) as bar:
        return {
            (large.name, size): throughput(large.recognizer, size, streams, max_batch, work.rounds, bar.update)
            for large, size in tasks
        }


def measure_live(
    work: Work, large_models: Sequence[ServedModel], trained: ServedModel, setup: ServerSetup, seed: int
) -> list[LiveResult]:
    """Measure the server: for the large encoder, first one session, then many; for the trained model, many."""
    plans = []
    for large in large_models:
        idle = [samples[: int(work.idle_seconds * large.sample_rate)] for samples in large.recordings]
        alone = large._replace(recordings=idle, texts=streamed_texts(large.recognizer, idle, large.chunk))
        plans += [(alone, 1), *((large, count) for count in work.sessions)]
    plans.append((trained, work.trained_sessions))
    found = []
    for served, count in tqdm(plans, desc="real time", leave=False, disable=None):
        result = real_time(served, count, work.seconds, setup, seed)
        what = f"{served.name}, {count} at once"
        wrong = sum(text != served.texts[index] for index, text in result.found.texts) + len(result.found.errors)
        goals = [Goal(f"{what}: sessions with a wrong text", 0, wrong, at_most=True)]
        if count == 1 and served is not trained:
            first = milliseconds(result.found.firsts, 1.0)
            goals.append(Goal(f"{what}: ms from a chunk's end to the first result", FIRST_GOAL, first, at_most=True))
        elif count in (work.sessions[0], work.trained_sessions):
            delay = milliseconds(result.found.delays, 0.95)
            goals.append(Goal(f"{what}: ms from a chunk's end to its result, 95 %", DELAY_GOAL, delay, at_most=True))
        found.append(LiveResult(what, count, result, wrong, goals))
    return found


def measure_starts(work: Work, *models: ServedModel) -> dict[str, Start]:
    found = {}
    for served in tqdm(models, desc="new processes", leave=False, disable=None):
        samples = to_float(np.concatenate(served.recordings))[: round(work.start_seconds * served.sample_rate)]
        found[served.name] = new_process(served.path, samples, work.starts, served.backend)
    return found


def measure_memory(work: Work, trained: ServedModel) -> dict[str, Memory]:
    tasks = {
        f"{work.in_sequence} sessions in sequence, every tenth aborted": ("sequence", work.in_sequence),
        f"one stream of {work.long_seconds:g} s": ("long", work.long_seconds),
    }
    return {what: memory_of(task, trained.path, trained.recordings, amount) for what, (task, amount) in tasks.items()}


# ---- reporting


def milliseconds(seconds: Sequence[float], quantile: float) -> float:
    return 1000 * float(np.quantile(seconds, quantile)) if seconds else float("nan")


def quantiles(seconds: Sequence[float]) -> list[float]:
    return [round(milliseconds(seconds, quantile), 1) for quantile in QUANTILES]


def describe(work: Work, setup: ServerSetup, found: Measured) -> str:
    labels = {chunking.size: chunking_label(chunking) for chunking in work.sizes.chunkings}
    rates = [
        [f"{name}, {labels[chunk]}", *(f"{value:.0f}" for value in rate), f"{rate.batched / rate.alone:.2f} x"]
        for (name, chunk), rate in found.throughput.items()
    ]
    rows = []
    for live in found.live:
        measured = live.result.found
        delays = [
            " / ".join(f"{value:.0f}" for value in quantiles(each))
            for each in (measured.delays, measured.firsts, measured.lasts, measured.lateness)
        ]
        rows.append([
            live.what, str(len(measured.texts)), *delays, f"{live.result.streams_per_step:.1f}",
            f"{live.result.cores:.2f} + {live.result.client_cores:.2f}", str(live.wrong),
        ])  # fmt: skip
    memory = [
        [what, *(f"{size / 1e6:.0f}" for size in each), f"{each.growth:.3f} x"] for what, each in found.memory.items()
    ]
    starts = [
        [name, f"{start.imports:.2f}", f"{start.load:.2f}", f"{1000 * start.first:.1f}", f"{1000 * start.median:.1f}"]
        for name, start in found.starts.items()
    ]
    encoder = work.sizes.encoder
    return "\n\n".join([
        f"Large encoder: {encoder.layers} layers, {encoder.dim} wide, feed-forward {encoder.feed_forward}, random "
        "weights, "
        f"int8 with constant scales. Server processes: {setup.processes}. Engine of each: {setup.options.workers} "
        f"workers, at most {setup.options.max_batch} streams in a step.",
        "Seconds of audio decoded per second of one core, large encoder; medians, the columns take turns:",
        markdown_table(["model, chunking", "streams alone", "engine, unbatched", "engine", "engine / alone"], rates),
        f"Sessions of `wenet-fusion-runtime serve` in real time for {work.seconds:g} s, clients in another process; "
        "ms at the "
        "percentiles 50 / 95 / 100:",
        markdown_table(
            ["", "sessions", "end of a chunk to its result", "first chunk of a session to its result",
             "end of the audio to the last result", "client sends late by", "streams in a step",
             "cores: server + clients", "wrong texts"], rows,
        ),
        markdown_table(["resident MB", "after 10 % of the work", "at the end", "largest", "growth"], memory),
        markdown_table(
            ["a new process", "imports, s", "load and warm-up, s", "first chunk, ms", "median chunk, ms"], starts
        ),
    ])  # fmt: skip


def all_goals(found: Measured) -> list[Goal]:
    goals = [
        Goal(f"{name}, chunk {chunk}: engine / streams alone", BATCH_GOALS[chunk], rate.batched / rate.alone)
        for (name, chunk), rate in found.throughput.items()
        if chunk in BATCH_GOALS
    ]
    goals += [goal for live in found.live for goal in live.goals]
    goals += [
        Goal(f"{what}: largest memory / memory after 10 % of the work", MEMORY_GOAL, memory.growth, at_most=True)
        for what, memory in found.memory.items()
    ]
    for name, start in found.starts.items():
        ratio = start.first / start.median
        goals.append(Goal(f"{name}: seconds to load and warm up", LOAD_GOAL, start.load, at_most=True))
        goals.append(Goal(f"{name}: first chunk / median chunk", FIRST_CHUNK_GOAL, ratio, at_most=True))
    return goals


def record(found: Measured) -> dict[str, object]:
    """Return the results for JSON."""
    live = {}
    for each in found.live:
        measured = each.result.found
        kinds = {
            "delays": measured.delays,
            "firsts": measured.firsts,
            "lasts": measured.lasts,
            "lateness": measured.lateness,
        }
        live[each.what] = {
            "sessions": len(measured.texts), "wrong": each.wrong, "errors": measured.errors, "cores": each.result.cores,
            "client_cores": each.result.client_cores, "streams_per_step": each.result.streams_per_step,
            **{f"{name}_ms": quantiles(seconds) for name, seconds in kinds.items()},
        }  # fmt: skip
    rates = {f"{name}, chunk {chunk}": rate for (name, chunk), rate in found.throughput.items()}
    parts = {"throughput": rates, "memory": found.memory, "starts": found.starts}
    return {
        "live": live,
        **{name: {key: value._asdict() for key, value in part.items()} for name, part in parts.items()},
    }


if __name__ == "__main__":
    run_main(main)
