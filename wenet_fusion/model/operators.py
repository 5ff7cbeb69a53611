"""Which operators a scripted method runs: how export proves that no norm is left. Knows no model in particular."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

# Substrings of operator names that a fused encoder must not contain: what BatchNorm folding and ReLU have removed.
NORM_OPERATORS = ("batch_norm", "layer_norm", "instance_norm", "group_norm")
COSTLY_ACTIVATIONS = ("sigmoid", "silu", "glu", "tanh")


CALLS = ("prim::CallMethod", "prim::CallFunction")


def operators(graph: Any) -> Counter[str]:
    """Counts of the operators (`aten::...`) in an inlined TorchScript graph, nested blocks included.

    torch inlines the form of a method that it ran last, and instances of a class share their methods: once one has run
    without optimisation, graphs of the others keep the call. So take graphs from files that have just been loaded.

    Raises:
        ValueError: if a call was not inlined, whose operators would not be counted.
    """
    counts: Counter[str] = Counter()
    blocks = [graph]
    while blocks:
        for node in blocks.pop().nodes():
            if node.kind() in CALLS:
                raise ValueError(
                    f"the graph still calls {node.s('name') if node.hasAttribute('name') else 'a function'}: its operators are not known"
                )
            if node.kind().startswith("aten::"):
                counts[node.kind()] += 1
            blocks.extend(node.blocks())
    return counts


def matching(counts: Mapping[str, int], patterns: Sequence[str]) -> dict[str, int]:
    """The operators whose names contain one of the patterns."""
    return {name: count for name, count in sorted(counts.items()) if any(pattern in name for pattern in patterns)}
