"""Which operators a scripted method runs: how export proves that no norm is left. Knows no model in particular."""

from collections import Counter
from typing import Any

# Substrings of operator names that a fused encoder must not contain: what BatchNorm folding and ReLU have removed.
NORM_OPERATORS = ("batch_norm", "layer_norm", "instance_norm", "group_norm")
COSTLY_ACTIVATIONS = ("sigmoid", "silu", "glu", "tanh")


def operators(graph: Any) -> Counter[str]:
    """Counts of the operators (`aten::...`) in an inlined TorchScript graph, nested blocks included."""
    counts: Counter[str] = Counter()
    blocks = [graph]
    while blocks:
        for node in blocks.pop().nodes():
            if node.kind().startswith("aten::"):
                counts[node.kind()] += 1
            blocks.extend(node.blocks())
    return counts


def matching(counts: Counter[str], patterns: tuple[str, ...]) -> dict[str, int]:
    """The operators whose names contain one of the patterns."""
    return {name: count for name, count in sorted(counts.items()) if any(pattern in name for pattern in patterns)}
