#!/usr/bin/env python3
"""Draw the pictures of docs/model.md: a layer before and after folding, chunked attention, and what a stream caches.

The attention picture evaluates the function that masks attention in the model.

Example: python tools/draw_model.py docs
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from wenet_fusion_runtime.console import run_main

from wenet_fusion.model.chunking import Chunking, visible

sys.path.append(str(Path(__file__).resolve().parent / "measure"))  # the look of all pictures lives there
from pictures import BLUE, GRID, INK, PALE_BLUE, PALE_INK, RED, YELLOW, load_pyplot

FRAMES = 24  # frames of the attention picture
CHUNKING = Chunking(4, 2)


def draw_box(axes: Any, x: float, y: float, text: str, colour: str, width: float = 1.8) -> None:
    """Draw one operator as a box whose lower left corner is at (x, y)."""
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0.02,rounding_size=0.08"
    axes.add_patch(FancyBboxPatch((x, y), width, 0.56, boxstyle=style, facecolor=colour, edgecolor=GRID))
    axes.text(x + width / 2, y + 0.28, text, ha="center", va="center", fontsize=8, color=INK)


# The operators of each branch in training, and what is left of them after folding.
BRANCHES = {
    "feed-forward x 1/2": (
        ["linear", "BatchNorm", "ReLU", "linear", "BatchNorm", "x 1/2"],
        ["linear", None, "ReLU", "linear", None, None],
    ),
    "self-attention": (
        ["linear q, k, v", "BatchNorm", "attention", "linear", "BatchNorm", None],
        ["linear q, k, v", None, "attention", "linear", None, None],
    ),
    "causal convolution": (
        ["pointwise", "BN, ReLU", "depthwise", "BN, ReLU", "pointwise", "BatchNorm"],
        ["pointwise", "ReLU", "depthwise", "ReLU", "pointwise", None],
    ),
}


def draw_layer(path: Path) -> None:
    """Draw an encoder layer as it trains and as it is exported."""
    pyplot = load_pyplot()
    figure, axes = pyplot.subplots(1, 2, figsize=(10.5, 4.6))
    for side, title in enumerate(("in training", "exported")):
        panel = axes[side]
        for column, (name, forms) in enumerate(BRANCHES.items()):
            x = 2.2 * column
            panel.text(x + 0.9, 5.0, name, ha="center", fontsize=9, color=PALE_INK)
            for row, operator in enumerate(forms[side]):
                if operator is None:
                    continue
                folds = operator in ("BatchNorm", "x 1/2")
                colour = YELLOW if folds else (PALE_BLUE if "ReLU" not in operator else "white")
                draw_box(panel, x, 4.2 - 0.78 * row, operator, colour)
        panel.text(3.1, -0.55, "yellow, BN and x 1/2 fold into the weights above them", ha="center",
                   fontsize=8, color=PALE_INK)  # fmt: skip
        panel.set_title(title, fontsize=11, color=INK)
        panel.set_xlim(-0.2, 6.6)
        panel.set_ylim(-0.8, 5.4)
        panel.axis("off")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def draw_chunks(path: Path) -> None:
    """Draw which frames see which, from the function that the model masks attention with."""
    pyplot = load_pyplot()
    positions = torch.arange(FRAMES).unsqueeze(0)
    mask = visible(positions, positions, CHUNKING)[0]
    figure, axes = pyplot.subplots(figsize=(5.6, 4.6))
    chunk = positions[0] // CHUNKING.size
    shade = mask.float() * torch.where(chunk.unsqueeze(1) == chunk.unsqueeze(0), 1.0, 0.45)
    axes.imshow(shade, cmap="Blues", vmin=0, vmax=1.3, aspect="equal")
    for edge in range(0, FRAMES + 1, CHUNKING.size):
        axes.axhline(edge - 0.5, color=GRID, linewidth=0.8)
        axes.axvline(edge - 0.5, color=GRID, linewidth=0.8)
    axes.set_xlabel("key frame (40 ms)", color=PALE_INK)
    axes.set_ylabel("query frame", color=PALE_INK)
    axes.set_title(f"chunking {CHUNKING.size}/{CHUNKING.left}: own chunk (dark), left context (pale)", fontsize=10)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def draw_caches(path: Path) -> None:
    """Draw one step of a stream: samples in, caches in and out, frames out."""
    pyplot = load_pyplot()
    figure, axes = pyplot.subplots(figsize=(10.5, 3.4))
    rows = [
        ("samples", "last 240 samples", "chunk: size x 640 samples", "window - hop of the features"),
        ("features", "1 frame, twice", "size x 4 frames", "stride-2 convolutions of the subsampling"),
        ("attention", "size x left frames", "size frames", "keys and values of every layer"),
        ("convolution", "kernel - 1 frames", "size frames", "inputs of every depthwise convolution"),
    ]
    for row, (name, cached, new, note) in enumerate(rows):
        y = 3.0 - row
        axes.text(-0.2, y + 0.28, name, ha="right", va="center", fontsize=9, color=INK)
        draw_box(axes, 0.0, y, cached, YELLOW, 2.6)
        draw_box(axes, 2.7, y, new, PALE_BLUE, 3.6)
        axes.annotate("", (7.0, y + 0.28), (6.4, y + 0.28), arrowprops={"arrowstyle": "->", "color": BLUE})
        axes.text(7.1, y + 0.28, note, va="center", fontsize=8.5, color=PALE_INK)
    axes.text(1.3, 3.85, "state from the step before", ha="center", fontsize=9, color=RED)
    axes.text(4.5, 3.85, "this step's block", ha="center", fontsize=9, color=BLUE)
    axes.set_xlim(-1.4, 10.6)
    axes.set_ylim(-0.2, 4.2)
    axes.axis("off")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the three pictures; see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder", type=Path, help="folder that gets model_layer.png, model_chunks.png, model_caches.png"
    )
    folder = parser.parse_args(arguments).folder
    folder.mkdir(parents=True, exist_ok=True)
    draw_layer(folder / "model_layer.png")
    draw_chunks(folder / "model_chunks.png")
    draw_caches(folder / "model_caches.png")
    return 0


if __name__ == "__main__":
    run_main(main)
