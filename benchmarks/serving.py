#!/usr/bin/env python3
"""Serves many streams with one engine: throughput of batches, sessions in real time from another process, memory, starts.

Two models: a 33 M-parameter encoder with random weights, in int8 with constant scales, and a trained MODEL with a LIST of
recordings and transcripts, whose sessions must hear what offline evaluation hears. Everything runs on the cores that
this process may use, clients included. Writes serving.md and serving.json.
"""

import argparse
import itertools
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from models import random_model, sharpen
from report import Goal, goals_table, table, this_run, write_report
from runtime import BLANK_SHARE, QUICK, SAMPLE_RATE, SEGMENT_SECONDS, SHARPNESS, SIZES, Sizes
from serving_measures import (
    Memory, RealTime, Start, Throughput, new_process, one_long_stream, real_time, sessions_in_sequence, throughput,
    wrong_texts,
)
from subjects import write_script
from tqdm import tqdm
from wenet_fusion_runtime import DecodingOptions, EngineOptions, Recognizer
from wenet_fusion_runtime.audio import load_audio
from wenet_fusion_runtime.decoding import PREFIX_BEAM, transcribe_offline

from wenet_fusion.chunking import chunking_label
from wenet_fusion.console import run_main

LARGE, TRAINED = "large encoder", "trained model"
DELAY_GOAL, FIRST_GOAL = 300.0, 50.0  # ms beyond the chunk
BATCH_GOALS = {4: 2.0, 16: 1.4}  # by chunk: times the throughput of streams one after the other
LOAD_GOAL, FIRST_CHUNK_GOAL, MEMORY_GOAL = 3.0, 2.0, 1.05
NOISES = 4  # recordings of noise


class Work(NamedTuple):
    """How much is measured."""

    sizes: Sizes
    rounds: int
    seconds: float  # of sessions in real time
    sessions: tuple[int, ...]  # of the large encoder at once; those of the first number have a goal
    trained_sessions: int
    in_sequence: int
    long_seconds: float
    starts: int
    streams: int  # in a turn of the throughput
    recordings: int | None  # of LIST; None: all


FULL = Work(SIZES, 5, 12.0, (64, 1), 200, 1000, 7200.0, 5, 16, None)
QUICK_WORK = Work(QUICK, 1, 1.0, (4, 1), 4, 20, 20.0, 1, 4, 2)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL", help="exported file of a trained model")
    parser.add_argument("list", type=Path, metavar="LIST", help="data.list of recordings for it (JSON lines with `wav`)")
    parser.add_argument("--workers", type=int, default=2, help="threads that step the models (default: 2)")
    parser.add_argument("--max_batch", type=int, default=16, help="streams in one step (default: 16)")
    parser.add_argument("--sessions", type=int, nargs="+", help="of the large encoder at once (default: 64 1)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, noise and the clients' starts (default: 0)")
    parser.add_argument("--quick", action="store_true", help="a toy encoder and little of all: shows that all runs")
    parser.add_argument("--output", type=Path, required=True, help="folder for the tables and the numbers")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    work = QUICK_WORK if args.quick else FULL
    if args.sessions:
        work = work._replace(sessions=tuple(args.sessions))
    options = EngineOptions(workers=args.workers, max_batch=args.max_batch)
    trained = Recognizer(args.model)
    recordings = read_recordings(args.list, trained.model.meta.sample_rate, work.recordings)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.zip"
        noise = write_large(work.sizes, path, args.seed)
        large = Recognizer(path, DecodingOptions(PREFIX_BEAM))
        found = measure(work, options, large, noise, trained, recordings, args.seed)
        starts = {
            LARGE: new_process(path, noise[0].astype(np.float32) / 32768, work.starts),
            TRAINED: new_process(args.model, np.concatenate(recordings).astype(np.float32) / 32768, work.starts),
        }
    run = this_run(args.seed, os.getloadavg()[0])
    goals = all_goals(found, starts)
    text = "\n\n".join(["\n".join(run.lines()), describe(work, options, found, starts), goals_table(goals)])
    print(text)
    record = {"run": run, "goals": goals, "starts": starts, "found": found.record()}
    write_report(args.output, "serving", text, record)
    return 0


class Measured(NamedTuple):
    throughput: dict[int, Throughput]  # by frames per chunk
    real_time: dict[tuple[str, int], RealTime]  # by model and sessions at once
    wrong: dict[tuple[str, int], int]  # sessions of those that heard something else than offline evaluation
    sequence: Memory
    long: Memory

    def record(self) -> dict[str, object]:
        """For JSON."""
        names = {key: f"{key[0]}: {key[1]} sessions" for key in self.real_time}
        return {
            "throughput": {chunk: value._asdict() for chunk, value in self.throughput.items()},
            "real_time": {names[key]: summary(value) for key, value in self.real_time.items()},
            "wrong": {names[key]: value for key, value in self.wrong.items()},
            "sequence": self.sequence._asdict(),
            "long": self.long._asdict(),
        }


def read_recordings(path: Path, sample_rate: int, count: int | None) -> list[np.ndarray]:
    """int16 of each recording of a list. Raises OSError or ValueError if it or one of them cannot be read."""
    lines = path.read_text(encoding="utf-8").splitlines()[:count]
    found = [load_audio(path.parent / json.loads(line)["wav"], sample_rate) for line in lines]
    if not found:
        raise ValueError(f"{path}: lists no recording")
    return [to_int16(samples) for samples in found]


def to_int16(samples: np.ndarray) -> np.ndarray:
    return (32768 * samples).clip(-32768, 32767).astype(np.int16)


def write_large(sizes: Sizes, path: Path, seed: int) -> list[np.ndarray]:
    """Writes the large encoder's file, and returns noise for it."""
    rng = np.random.default_rng(seed)
    noise = [rng.normal(0, 0.1, SAMPLE_RATE * SEGMENT_SECONDS).astype(np.float32) for _ in range(NOISES)]
    model = random_model(sizes.encoder, sizes.chunkings, sizes.vocabulary, seed)
    sharpen(model, torch.from_numpy(noise[0]), BLANK_SHARE, SHARPNESS)
    write_script(model, "int8", noise[0], path)
    return [to_int16(samples) for samples in noise]


def measure(
    work: Work, options: EngineOptions, large: Recognizer, noise: Sequence[np.ndarray], trained: Recognizer,
    recordings: Sequence[np.ndarray], seed: int,
) -> Measured:
    """Everything but the starts."""
    streams = [samples.astype(np.float32)[: int(6.4 * SAMPLE_RATE)] / 32768 for samples in noise]
    some = list(itertools.islice(itertools.cycle(streams), work.streams))
    rates: dict[int, Throughput] = {}
    with tqdm(total=3 * work.rounds * len(work.sizes.chunkings), desc="throughput", leave=False, disable=None) as bar:
        for chunking in work.sizes.chunkings:
            rates[chunking.size] = throughput(
                large, chunking.size, some, options.max_batch, work.rounds, bar.update
            )
    live, wrong = {}, {}
    plans = [(LARGE, count) for count in work.sessions] + [(TRAINED, work.trained_sessions)]
    for name, count in tqdm(plans, desc="real time", leave=False, disable=None):
        recognizer, spoken = (large, noise) if name == LARGE else (trained, recordings)
        chunk = work.sizes.chunkings[0].size if name == LARGE else recognizer.model.meta.default_chunk
        clips = [samples[: int(work.seconds * recognizer.model.meta.sample_rate)] for samples in spoken]
        found = real_time(recognizer, clips, chunk, count, work.seconds, options, seed)
        live[name, count], wrong[name, count] = found, wrong_texts(found.found, offline(recognizer, clips, chunk))
    endless: Iterator[np.ndarray] = itertools.cycle(recordings)
    with tqdm(total=work.in_sequence, desc="sessions in sequence", leave=False, disable=None) as bar:
        sequence = sessions_in_sequence(trained, endless, work.in_sequence, bar.update)
    with tqdm(total=round(work.long_seconds), desc="one long stream", unit="s", leave=False, disable=None) as bar:
        long = one_long_stream(trained, endless, work.long_seconds, bar.update)
    return Measured(rates, live, wrong, sequence, long)


def offline(recognizer: Recognizer, clips: Sequence[np.ndarray], chunk: int) -> list[str]:
    """What offline evaluation hears."""
    model = recognizer.model
    texts = []
    for samples in tqdm(clips, desc="offline", leave=False, disable=None):
        results = transcribe_offline(
            model, samples.astype(np.float32) / 32768, chunk, model.meta.left(chunk), recognizer.options
        )
        texts.append(" ".join(result.text for result in results if result.text))
    return texts


def milliseconds(seconds: Sequence[float], quantile: float) -> float:
    return 1000 * float(np.quantile(seconds, quantile)) if seconds else float("nan")


def summary(live: RealTime) -> dict[str, object]:
    """What a table and a reader of the JSON want of it."""
    found, counts = live.found, live.statistics
    return {
        "sessions": len(found.texts),
        "errors": found.errors,
        **{
            f"{name}_ms": [round(milliseconds(values, quantile), 1) for quantile in (0.5, 0.95, 1.0)]
            for name, values in (
                ("delays", found.delays), ("firsts", found.firsts), ("lasts", found.lasts), ("lateness", found.lateness)
            )
        },
        "streams_per_step": counts.batches.total / max(1, counts.batches.count),
        "cores": live.cores,
        "client_cores": live.client_cores,
        "statistics": counts._asdict(),
    }  # fmt: skip


def describe(work: Work, options: EngineOptions, found: Measured, starts: dict[str, Start]) -> str:
    """The tables."""
    labels = {chunking.size: chunking_label(chunking) for chunking in work.sizes.chunkings}
    rates = [
        [f"{labels[chunk]}", *(f"{value:.0f}" for value in rate), f"{rate.batched / rate.alone:.2f} x"]
        for chunk, rate in found.throughput.items()
    ]
    live_rows = []
    for (name, count), live in found.real_time.items():
        row = summary(live)
        live_rows.append([
            f"{name}: {count} at once", str(row["sessions"]), *(_quantiles(row[f"{kind}_ms"]) for kind in
            ("delays", "firsts", "lasts", "lateness")), f"{row['streams_per_step']:.1f}",
            f"{live.cores:.2f} + {live.client_cores:.2f}", str(found.wrong[name, count]),
        ])  # fmt: skip
    memory = [
        [what, f"{each.before / 1e6:.0f}", f"{each.after / 1e6:.0f}", f"{each.largest / 1e6:.0f}"]
        for what, each in (
            (f"{work.in_sequence} sessions in sequence, every tenth cut off", found.sequence),
            (f"one stream of {work.long_seconds:g} s", found.long),
        )
    ]
    start_rows = [
        [name, f"{start.import_seconds:.2f}", f"{start.load_seconds:.2f}", f"{1000 * start.first:.1f}",
         f"{1000 * start.median:.1f}"]
        for name, start in starts.items()
    ]  # fmt: skip
    return "\n\n".join([
        f"Large encoder: {work.sizes.encoder.layers} layers, {work.sizes.encoder.dim} wide, {found.parameters / 1e6:.0f} M "
        f"parameters, int8 with constant scales. Engine: {options.workers} workers, at most {options.max_batch} streams in "
        f"a step. Real time: {work.seconds:g} s, from another process; ms as 50 / 95 / 100 %.",
        "Seconds of audio in a processor's second, large encoder, medians by turns:",
        table(["frames/chunks", "streams alone", "engine, unbatched", "engine", "engine / alone"], rates),
        table(
            ["model", "sessions", "partial after its chunk", "the first one", "last after the end", "clients' own lateness",
             "streams in a step", "cores: server + clients", "wrong texts"],
            live_rows,
        ),
        table(["resident MB", "after a tenth", "at the end", "largest"], memory),
        table(["a new process", "imports, s", "load, s", "first chunk, ms", "median chunk, ms"], start_rows),
    ])  # fmt: skip


def _quantiles(values: Sequence[float]) -> str:
    return " / ".join(f"{value:.0f}" for value in values)


def all_goals(found: Measured, starts: dict[str, Start]) -> list[Goal]:
    goals = [
        Goal(f"chunk {chunk}: batched against streams alone", BATCH_GOALS[chunk], rate.batched / rate.alone)
        for chunk, rate in found.throughput.items()
        if chunk in BATCH_GOALS
    ]
    for (name, count), live in found.real_time.items():
        what = f"{name}, {count} at once"
        if count > 1:
            delay = milliseconds(live.found.delays, 0.95)
            goals.append(Goal(f"{what}: ms to 95 % of partial results", DELAY_GOAL, delay, at_most=True))
        else:
            first = milliseconds(live.found.firsts, 1.0)
            goals.append(Goal(f"{what}: ms to the first result", FIRST_GOAL, first, at_most=True))
        wrong = found.wrong[name, count] + len(live.found.errors)
        goals.append(Goal(f"{what}: sessions that heard something else than offline", 0, wrong, at_most=True))
    for what, memory in (("sessions in sequence", found.sequence), ("one long stream", found.long)):
        goals.append(Goal(f"{what}: largest memory against that after a tenth", MEMORY_GOAL, memory.growth, at_most=True))
    for name, start in starts.items():
        goals.append(Goal(f"{name}: seconds to load", LOAD_GOAL, start.load_seconds, at_most=True))
        goals.append(
            Goal(f"{name}: first chunk against the median", FIRST_CHUNK_GOAL, start.first / start.median, at_most=True)
        )
    return goals


if __name__ == "__main__":
    run_main(main)
