#!/usr/bin/env python3
"""Draw the losses and the word error rate of a training run from its train_log.jsonl."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pictures import BLUE, PALE_BLUE, PALE_INK, RED, YELLOW, load_pyplot
from wenet_fusion_runtime.console import run_main
from wenet_fusion_runtime.files import read_lines


def read_log(path: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Read the step lines and the epoch lines as columns. Raises ValueError if there is no step or a line is broken."""
    entries: dict[str, list[dict[str, float]]] = {"step": [], "epoch": []}
    for number, line in enumerate(read_lines(path), start=1):
        try:
            entry = json.loads(line)
            entries[entry.pop("kind")].append(entry)
        except (json.JSONDecodeError, KeyError) as error:
            raise ValueError(f"{path}:{number}: not a line of a training log: {line[:60]!r}") from error
    if not entries["step"]:
        raise ValueError(f"{path}: no training step in it")
    return _columns(entries["step"]), _columns(entries["epoch"])


def _columns(entries: Sequence[dict[str, float]]) -> dict[str, np.ndarray]:
    return {name: np.array([entry[name] for entry in entries], dtype=float) for name in entries[0]} if entries else {}


def smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Return the running median over about `width` values (fewer at the ends), to hide outliers."""
    half = width // 2
    return np.array([np.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))])


def draw(steps: dict[str, np.ndarray], epochs: dict[str, np.ndarray], title: str, path: Path) -> None:
    """Draw two panels: losses per step with the dev loss, and the word error rate on dev. Raises OSError."""
    plt = load_pyplot()
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure, (losses, errors) = plt.subplots(1, 2, figsize=(11, 4))
    width, curves = max(1, len(steps["step"]) // 40), [epochs.get("dev_loss", np.array([]))]
    for name, label, colour in (
        ("loss", "training", BLUE), ("ctc_loss", "CTC part", PALE_BLUE), ("attention_loss", "attention part", YELLOW),
    ):  # fmt: skip
        if name in steps and np.isfinite(steps[name]).any():
            curves.append(smooth(steps[name], width))
            losses.plot(steps["step"], steps[name], color=colour, lw=0.4, alpha=0.1)
            losses.plot(steps["step"], curves[-1], color=colour, lw=1.8, label=label)
    if "dev_loss" in epochs:
        losses.plot(epochs["step"], epochs["dev_loss"], "o-", color=RED, ms=4, lw=1.5, label="dev")
    losses.set(title="loss", xlabel="step", yscale="log")
    drawn = np.concatenate(curves)
    drawn = drawn[np.isfinite(drawn) & (drawn > 0)]
    if drawn.size:  # the limits ignore the losses of single steps, which vary with the utterance lengths in a batch
        losses.set_ylim(drawn.min() / 1.3, 1.3 * drawn.max())
    losses.legend()
    errors.set(title="word error rate on dev (greedy)", xlabel="step")
    if "dev_wer" in epochs:
        wer = 100 * epochs["dev_wer"]
        shown = np.maximum(wer, 0.05)
        errors.plot(epochs["step"], shown, "o-", color=RED, ms=4, lw=1.5)
        errors.set_yscale("log")
        errors.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        errors.set_ylim(shown.min() / 1.5, 1.15 * shown.max())
        errors.annotate(
            f"{wer[-1]:.2f} %", (epochs["step"][-1], shown[-1]), xytext=(-6, -16), textcoords="offset points",
            ha="right", weight="bold", color=RED,
        )  # fmt: skip
    errors.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    for axes in (losses, errors):
        axes.yaxis.set_minor_formatter(NullFormatter())
    losses.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for axes in (losses, errors):
        axes.grid(which="major", lw=0.8)
    figure.suptitle(title, fontsize=9, color=PALE_INK, x=0.01, ha="left")
    figure.savefig(path)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see --help."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", type=Path, help="train_log.jsonl")
    parser.add_argument("output", type=Path, help="picture to write (PNG, SVG or PDF)")
    args = parser.parse_args(arguments)
    steps, epochs = read_log(args.log)
    draw(steps, epochs, f"{args.log.parent}: {int(steps['step'][-1])} steps", args.output)
    print(f"{args.output}: {len(steps['step'])} steps, {len(epochs.get('step', ()))} validations")
    return 0


if __name__ == "__main__":
    run_main(main)
