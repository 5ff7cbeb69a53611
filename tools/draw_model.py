#!/usr/bin/env python3
"""Draw the pictures of docs/model.md: a layer before and after folding, chunked attention, and the state of a stream.

The attention picture shows the mask that the model's own function returns.

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

sys.path.append(str(Path(__file__).resolve().parent / "measure"))  # the common style of all pictures is defined there
from pictures import BLUE, GRID, INK, PALE_BLUE, PALE_INK, RED, YELLOW, load_pyplot

FRAMES = 24  # number of frames in the attention picture
CHUNKING = Chunking(4, 2)


def draw_box(axes: Any, x: float, y: float, text: str, colour: str, width: float = 1.8) -> None:
    """Draw one operator as a box whose lower left corner is at (x, y)."""
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0.02,rounding_size=0.08"
    axes.add_patch(FancyBboxPatch((x, y), width, 0.56, boxstyle=style, facecolor=colour, edgecolor=GRID))
    axes.text(x + width / 2, y + 0.28, text, ha="center", va="center", fontsize=8, color=INK)


# The operators of each branch in training. Export folds the operators in FOLDED into the weights above them.
FOLDED = ("BatchNorm", "x 1/2")
BRANCHES = {
    "feed-forward\n(first and last branch)": ["linear", "BatchNorm", "ReLU", "linear", "BatchNorm", "x 1/2"],
    "self-attention": ["linear q, k, v", "BatchNorm", "attention", "linear", "BatchNorm"],
    "causal convolution": [
        *("pointwise", "BatchNorm", "ReLU", "depthwise", "BatchNorm", "ReLU"),
        *("pointwise", "BatchNorm"),
    ],
}


def draw_layer(path: Path) -> None:
    """Draw the branches of an encoder layer, in training and exported."""
    pyplot = load_pyplot()
    figure, axes = pyplot.subplots(1, 2, figsize=(10.5, 5.4))
    captions = ("each yellow operator folds into the weights above it", "no normalisation is left")
    for panel, title, caption in zip(axes, ("in training", "exported"), captions):
        for column, (name, operators) in enumerate(BRANCHES.items()):
            panel.text(2.2 * column + 0.9, 6.35, name, ha="center", va="center", fontsize=9, color=PALE_INK)
            for row, operator in enumerate(operators):
                colour = YELLOW if operator in FOLDED else "white" if operator == "ReLU" else PALE_BLUE
                if title == "in training" or operator not in FOLDED:
                    draw_box(panel, 2.2 * column, 5.4 - 0.74 * row, operator, colour)
        panel.text(3.1, -0.55, caption, ha="center", fontsize=9, color=PALE_INK)
        panel.set_title(title, fontsize=11, color=INK)
        panel.set_xlim(-0.2, 6.6)
        panel.set_ylim(-0.8, 6.7)
        panel.axis("off")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def draw_chunks(path: Path) -> None:
    """Draw the attention mask, computed with the function of the model."""
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
    """Draw the inputs of one step of a stream: the state and the new block."""
    pyplot = load_pyplot()
    figure, axes = pyplot.subplots(figsize=(10.5, 3.4))
    rows = [
        ("samples", "240 samples", "size x 640 samples", "windows of the features (25 ms every 10 ms)"),
        ("features", "1 frame, twice", "size x 4 frames", "the two stride-2 convolutions"),
        ("attention", "size x left frames", "size frames", "keys and values of every layer"),
        ("convolution", "kernel - 1 frames", "size frames", "depthwise convolution of every layer"),
    ]
    for row, (name, cached, new, note) in enumerate(rows):
        y = 3.0 - row
        axes.text(-0.2, y + 0.28, name, ha="right", va="center", fontsize=9, color=INK)
        draw_box(axes, 0.0, y, cached, YELLOW, 2.6)
        draw_box(axes, 2.7, y, new, PALE_BLUE, 3.6)
        axes.text(6.6, y + 0.28, note, va="center", fontsize=8.5, color=PALE_INK)
    axes.text(1.3, 3.85, "state: end of the last step", ha="center", fontsize=9, color=RED)
    axes.text(4.5, 3.85, "new in this step, at 16 kHz", ha="center", fontsize=9, color=BLUE)
    axes.text(6.6, 3.85, "needed by", fontsize=9, color=PALE_INK)
    axes.set_xlim(-1.4, 10.6)
    axes.set_ylim(-0.2, 4.2)
    axes.axis("off")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the three pictures; see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for model_layer.png, model_chunks.png, model_caches.png")
    folder = parser.parse_args(arguments).folder
    folder.mkdir(parents=True, exist_ok=True)
    draw_layer(folder / "model_layer.png")
    draw_chunks(folder / "model_chunks.png")
    draw_caches(folder / "model_caches.png")
    return 0


if __name__ == "__main__":
    run_main(main)
