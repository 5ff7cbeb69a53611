"""A table of streaming measurements, from files of tools/measure/measure_streaming.py and reliability.py."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wenet_fusion_runtime.files import parse_json

from wenet_fusion.evaluation.report.content import Table, plain_rows

Record = dict[str, Any]  # a JSON object that another program wrote


def read_streams(paths: Sequence[Path]) -> list[Record]:
    """Read stream.json files; add to each, as `reliability`, the reliability.json beside it, or None without one.

    Raises:
        ValueError: a file is not a stream.json.
        OSError: a file cannot be read.
    """
    records = []
    for path in paths:
        try:
            record = parse_json(path.read_text(encoding="utf-8"))
            reliability = path.with_name("reliability.json")  # missing if no word was recognised
            record["reliability"] = (
                parse_json(reliability.read_text(encoding="utf-8")) if reliability.exists() else None
            )
            record.setdefault("upwr", record.pop("flicker", None))  # earlier files call it flicker
            stream_table([record])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is no stream.json of tools/measure/measure_streaming.py ({error}); stream the test set again"
            ) from error
        records.append(record)
    return records


def stream_table(streams: Sequence[Record]) -> Table:
    """Return the streaming measurements, with a column for each file."""

    def spread(record: Record, name: str, digits: int, unit: str) -> str:
        value = record[name]
        if value is None:
            return "-"
        return " / ".join(f"{value[point]:.{digits}f}" for point in ("p50", "p90", "p99")) + f" {unit}"

    def errors(record: Record, name: str) -> str:
        value = record[name]
        return "-" if value is None else f"{value['mean']:.3f} / {value['p95']:.3f} s"

    def calibration(record: Record) -> str:
        found = record["reliability"]
        return "-" if found is None else f"{found['expected_calibration_error']:.3f}"

    rows = {
        "mode": lambda s: s["mode"],
        "word error rate": lambda s: "-" if s["wer"] is None else f"{100 * s['wer']:.2f} %",
        "same tokens as offline evaluation": lambda s: f"{s['same_tokens']} of {s['compared']} utterances",
        "real-time factor": lambda s: f"{s['real_time_factor']:.3f}",
        "computation per chunk": lambda s: spread(s, "chunk_ms", 1, "ms"),
        "last sample to final text": lambda s: spread(s, "finalisation_ms", 1, "ms"),
        "first word's start to first text": lambda s: spread(s, "first_text_seconds", 2, "s"),
        "end of a word to its last change on the screen": lambda s: spread(s, "emission_delay_seconds", 2, "s"),
        "unstable partial words, per 100 final words": lambda s: "-" if s["upwr"] is None else f"{100 * s['upwr']:.2f}",
        "error of word starts, mean / 95 %": lambda s: errors(s, "start_errors_seconds"),
        "error of word ends, mean / 95 %": lambda s: errors(s, "end_errors_seconds"),
        "expected calibration error of word confidence": calibration,
    }
    header = ("streamed in random cuts, one thread", *(record["chunking"] for record in streams))
    explanation = "Three numbers are the percentiles 50, 90 and 99."
    return Table(
        "Streaming", header, plain_rows([[title, *map(value, streams)] for title, value in rows.items()]), explanation
    )
