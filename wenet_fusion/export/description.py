"""Text about exports for users: the meaning of the precisions, and the results of verification."""

from pathlib import Path

from wenet_fusion_runtime.files import file_sha256

from wenet_fusion.export.flow import TARGETS
from wenet_fusion.export.target import Exported, ExportOptions, Findings
from wenet_fusion.model.chunking import Chunking, chunking_label

MEANINGS = {
    "float32": "finds the checkpoint's text, on any processor",
    "float16-packed": "finds the same text faster, on x86 only",
    "int8": "constant scales, calibrated on --data, so that streams can share a batch",
    "int8-dynamic": "scales computed at every call, no calibration",
}


def explain_precisions() -> str:
    """Return the meaning of each precision, and the targets that offer it."""
    names = {name: [target.name for target in TARGETS.values() if name in target.precisions] for name in MEANINGS}
    return "; ".join(f"{name} ({', '.join(names[name])}): {text}" for name, text in MEANINGS.items())


def describe_export(exported: Exported, options: ExportOptions, chunking: Chunking) -> list[str]:
    """Return the summary of an export that the command prints, line by line.

    Args:
        exported: the files.
        options: options of the export.
        chunking: chunking of the file, for targets with `one_chunking`.
    """
    found, target = exported.findings, TARGETS[options.target]
    norms = f"{found.norm_operators} normalisation operators" if found.norm_operators else "no normalisation"
    sizes = ", ".join(map(str, found.verification.chunk_sizes))
    streamed = f"chunking {chunking_label(chunking)}" if target.one_chunking else f"chunk sizes {sizes}"
    lines = [
        *map(_size, exported.files),
        *([f"SHA-256 {file_sha256(exported.files[0])}"] if target.for_our_runtime else []),
        f"{options.precision}; {norms} in the step; {_comparison(found)}, streamed at {streamed}",
        *_error_rate(found, options.precision),
        *_delay(found),
        *(f"note: {remark}" for remark in exported.remarks),
    ]
    return [*lines, "", "run it:", f"  {exported.command}"] if exported.command else lines


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{path}: {size / 1e6:.1f} MB" if size >= 1e5 else f"{path}: {size / 1e3:.1f} kB"


def _comparison(found: Findings) -> str:
    checked = found.verification
    tokens, utterances = checked.different_tokens, checked.utterances
    return (
        f"differs from the checkpoint by at most {checked.largest_difference:.1e}; the best token differs in "
        f"{tokens or 'none'} of {checked.frames} frames ({utterances} utterance{'s' if utterances > 1 else ''})"
    )


def _error_rate(found: Findings, precision: str) -> list[str]:
    errors = found.errors
    if errors is None:
        unknown = ["its error rate is unknown: give --data data.list to have it measured"]
        return unknown if precision.startswith("int8") else []
    return [
        f"word error rate {100 * errors.before:.2f} % before, {100 * errors.after:.2f} % after, streamed in chunks of "
        f"{errors.chunk} ({errors.words} words; the text of {errors.changed} of {errors.utterances} utterances differs)"
    ]


def _delay(found: Findings) -> list[str]:
    if not found.delay_measured:
        return []
    if found.delay is None:
        return ["timestamps: no word of the speech was recognised correctly, so they keep the emission delay"]
    shifts, after = found.delay.emission_delay, found.delay.after
    return [
        f"timestamps: starts move by {shifts.start_shift_seconds:+.3f} s, ends by {shifts.end_shift_seconds:+.3f} s "
        f"(medians over {found.delay.before.words} words; chunk sizes differ by up to "
        f"{found.delay.spread_seconds:.3f} s), which leaves mean errors of {after.starts.mean:.3f} and "
        f"{after.ends.mean:.3f} s"
    ]
