"""Stage 7: one page of Markdown that says what came out, of what, on what and how long it took; computes nothing."""

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from wenet_fusion.console import run_main
from wenet_fusion.files import write_text

Record = dict[str, Any]  # a JSON object as another program wrote it


def read_json(path: Path) -> Record:
    """Raises ValueError with the path if it is not JSON."""
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error}); run the stage that writes it again") from error


def error_table(rows: Sequence[Record]) -> list[str]:
    """Word error rates, one line per mode and one column per chunking."""
    chunkings = list(dict.fromkeys(row["chunking"] for row in rows))
    rates = {(row["mode"], row["chunking"]): row["wer"] for row in rows}
    lines = [
        f"| word error rate, % of {rows[0]['words']} words | " + " | ".join(chunkings) + " |",
        "|---|" + "--:|" * len(chunkings),
    ]
    for mode in dict.fromkeys(row["mode"] for row in rows):
        lines.append(f"| {mode} | " + " | ".join(f"{100 * rates[mode, chunking]:.2f}" for chunking in chunkings) + " |")
    return lines


def stream_table(streams: Sequence[Record]) -> list[str]:
    """What streaming the exported file gave, one column per chunking."""

    def spread(record: Record, name: str, digits: int, unit: str) -> str:
        value = record[name]
        if value is None:
            return "-"
        return " / ".join(f"{value[point]:.{digits}f}" for point in ("p50", "p90", "p99")) + f" {unit}"

    def wrong(record: Record, name: str) -> str:
        value = record[name]
        return "-" if value is None else f"{value['mean']:.3f} / {value['p95']:.3f} s"

    def calibration(record: Record) -> str:
        found = record["reliability"]
        return "-" if found is None else f"{found['expected_calibration_error']:.3f}"

    lines = [
        "| streamed in random cuts, one thread | " + " | ".join(stream["chunking"] for stream in streams) + " |",
        "|---|" + "--:|" * len(streams),
    ]
    rows = {
        "word error rate": lambda s: f"{100 * s['wer']:.2f} %",
        "same tokens as offline evaluation": lambda s: f"{s['same_tokens']} of {s['compared']} utterances",
        "real-time factor": lambda s: f"{s['real_time_factor']:.3f}",
        "computation per chunk, 50 / 90 / 99 %": lambda s: spread(s, "chunk_ms", 1, "ms"),
        "last sample to final text": lambda s: spread(s, "finalisation_ms", 1, "ms"),
        "first word's start to first text": lambda s: spread(s, "first_text_seconds", 2, "s"),
        "word's end to its being shown": lambda s: spread(s, "emission_delay_seconds", 2, "s"),
        "word starts wrong by, mean / 95 %": lambda s: wrong(s, "start_errors_seconds"),
        "word ends wrong by, mean / 95 %": lambda s: wrong(s, "end_errors_seconds"),
        "expected calibration error of word confidence": calibration,
    }
    return lines + [f"| {title} | " + " | ".join(map(value, streams)) + " |" for title, value in rows.items()]


def commit(folder: Path) -> str:
    """The commit of the sources, and whether they differ from it."""
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def processor() -> str:
    """Its name where Linux tells it, and the number of cores that this process may use."""
    names = [platform.processor() or platform.machine()]
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")] or names
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{names[0]}, {cores} cores"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="folder of the experiment; gets summary.md")
    parser.add_argument("--source", type=Path, required=True, help="source.json of stage -1")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--running_seconds", type=int, required=True, help="of the stage that calls this")
    parser.add_argument("--stage_seconds", type=Path, nargs="*", default=[], help="files named .stageN.seconds")
    args = parser.parse_args(arguments)

    source = read_json(args.source)
    streams = []
    for path in sorted(args.dir.glob("stream.*/stream.json")):
        reliability = path.with_name("reliability.json")  # none where no word was recognised
        streams.append(read_json(path) | {"reliability": read_json(reliability) if reliability.exists() else None})
    silences = [read_json(path) for path in sorted(args.dir.glob("silence.*/stream.json"))]
    results = args.dir / "results" / "results.json"
    lines = [f"# {args.dir}", ""]
    if source["kind"] == "synthetic":
        lines += [f"**Synthetic speech** ({source['why']}): these numbers say nothing about people's voices.", ""]
    lines += [*error_table(read_json(results)["rows"]), ""]
    if streams:
        lines += [*stream_table(streams), ""]
    for found in read_json(args.dir / "align" / "word_times.json").values():
        lines.append(
            f"- forced alignment of the test set: word starts wrong by {found['starts']['mean']:.3f} s on average (95 %:"
            f" {found['starts']['p95']:.3f} s), ends by {found['ends']['mean']:.3f} s ({found['ends']['p95']:.3f} s),"
            f" {found['words']} words"
        )
    for record in silences:
        lines.append(
            f"- {record['utterances']} recordings without a word ({record['audio_seconds'] / 60:.1f} min of silence,"
            f" noise, tones, babble), chunks {record['chunking']}: {record['insertions']} words in"
            f" {record['utterances_wrong']} of them"
        )
    false_words = args.dir / "false_words.txt"
    if false_words.exists():
        lines.append(f"- {false_words.read_text().splitlines()[-1].partition(': ')[2]}")
    seconds = {int(path.name.split(".")[1].removeprefix("stage")): int(path.read_text()) for path in args.stage_seconds}
    seconds[7] = args.running_seconds
    times = ", ".join(f"{number}: {value}" for number, value in sorted(seconds.items()))
    lines += [
        f"- data: {source['kind']}, {source['files']} takes, {len(source['speakers'])} speakers,"
        f" {source['sample_rate']} Hz; {source['origin']}; SHA-256 {source['sha256'][:12]}",
        f"- training seed {args.seed}; commit {commit(args.dir)}",
        f"- {processor()}; Python {platform.python_version()}, torch {version('torch')}, {platform.system()}",
        f"- seconds of each stage when it last ran: {times}; {sum(seconds.values())} in all",
        "- pictures: " + ", ".join(str(path) for path in sorted(args.dir.rglob("*.png"))),
    ]
    text = "\n".join(lines) + "\n"
    write_text(args.dir / "summary.md", text)
    print(f"\n{text}")
    different = [f"{s['same_tokens']} of {s['compared']} at {s['chunking']}" for s in streams if s["different"]]
    if different:
        raise ValueError(f"streaming gave the tokens of offline evaluation only for {', '.join(different)} utterances")
    return 0


if __name__ == "__main__":
    run_main(main)
