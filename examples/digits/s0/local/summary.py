"""Stage 7: write summary.md with the results, the data, the machine and the run time."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.files import write_text

from wenet_fusion.evaluation.options import PLAIN
from wenet_fusion.evaluation.report.markdown import markdown_table, table_lines
from wenet_fusion.evaluation.report.streaming_table import read_streams, stream_table
from wenet_fusion.provenance import commit, processor, software

Record = dict[str, Any]  # a JSON object from a file of another program


def read_json(path: Path) -> Record:
    """Read a JSON file. Raises ValueError with the path if it is not JSON."""
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error}); run the stage that writes it again") from error


def error_table(rows: Sequence[Record]) -> list[str]:
    """Return a table of word error rates, with a row for each mode and variant and a column for each chunking."""
    chunkings = list(dict.fromkeys(row["chunking"] for row in rows))
    names = [row["mode"] if row["variant"] == PLAIN else f"{row['mode']} + {row['variant']}" for row in rows]
    rates = {(name, row["chunking"]): f"{100 * row['wer']:.2f}" for name, row in zip(names, rows)}
    cells = [[name, *(rates.get((name, chunking), "-") for chunking in chunkings)] for name in dict.fromkeys(names)]
    return markdown_table([f"word error rate, % of {rows[0]['words']} words", *chunkings], cells).splitlines()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="folder of the experiment; summary.md is written there")
    parser.add_argument("--source", type=Path, required=True, help="source.json of stage -1")
    parser.add_argument("--seed", type=int, required=True, help="seed of the training; the summary names it")
    parser.add_argument("--running_seconds", type=int, required=True, help="seconds since stage 7 started")
    parser.add_argument("--stage_seconds", type=Path, nargs="*", default=[], help="files named .stageN.seconds")
    args = parser.parse_args(arguments)

    source = read_json(args.source)
    streams = read_streams(sorted(args.dir.glob("stream.*/stream.json")))
    silences = [read_json(path) for path in sorted(args.dir.glob("silence.*/stream.json"))]
    results = args.dir / "results" / "results.json"
    lines = [f"# {args.dir}", ""]
    if source["kind"] == "synthetic":
        lines += [f"**Synthetic speech** ({source['why']}): these numbers say nothing about people's voices.", ""]
    lines += [*error_table(read_json(results)["rows"]), ""]
    if streams:
        lines += [*table_lines(stream_table(streams)), ""]
    for found in read_json(args.dir / "align" / "word_times.json").values():
        lines.append(
            f"- forced alignment of the test set: word starts wrong by {found['starts']['mean']:.3f} s on average (95 "
            "%:"
            f" {found['starts']['p95']:.3f} s), ends by {found['ends']['mean']:.3f} s ({found['ends']['p95']:.3f} s),"
            f" {found['words']} words"
        )
    for record in silences:
        lines.append(
            f"- {record['utterances']} recordings without a word ({record['audio_seconds'] / 60:.1f} min of silence,"
            f" noise, tones, music, reversed voices), chunks {record['chunking']}: {record['insertions']} words in"
            f" {record['utterances_wrong']} of them"
        )
    insertions = args.dir / "insertions.txt"
    if insertions.exists():
        lines.append(f"- {insertions.read_text().splitlines()[-1].partition(': ')[2]}")
    seconds = {int(path.name.split(".")[1].removeprefix("stage")): int(path.read_text()) for path in args.stage_seconds}
    seconds[7] = args.running_seconds
    times = ", ".join(f"{number}: {value}" for number, value in sorted(seconds.items()))
    lines += [
        f"- data: {source['kind']}, {source['files']} takes, {len(source['speakers'])} speakers,"
        f" {source['sample_rate']} Hz; {source['origin']}; SHA-256 {source['sha256'][:12]}",
        f"- training seed {args.seed}; commit {commit(args.dir)}",
        f"- {processor()}; {software()}",
        f"- seconds of each stage when it last ran: {times}; {sum(seconds.values())} in all",
        f"- every utterance that was wrong, word by word: {args.dir / 'results' / 'report.html'}",
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
