"""Count the operators of a TorchScript graph; export uses the counts to check that no norm is left."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

# Parts of operator names that a fused encoder with ReLU must not contain.
NORM_OPERATORS = ("batch_norm", "layer_norm", "instance_norm", "group_norm")
COSTLY_ACTIVATIONS = ("sigmoid", "silu", "swish", "glu", "tanh", "gelu", "mish", "leaky_relu", "::elu", "softplus")
CALLS = ("prim::CallMethod", "prim::CallFunction")


def operators(graph: Any) -> Counter[str]:
    """Count the operators (`aten::...`) in an inlined TorchScript graph, nested blocks included.

    Take the graph from a file that was just loaded and has not run. torch shares the graph of a method among all
    instances of a class; after a run without optimisation, the graph contains calls that hide operators.

    Raises:
        ValueError: if a call was not inlined, so its operators cannot be counted.
    """
    counts: Counter[str] = Counter()
    blocks = [graph]
    while blocks:
        for node in blocks.pop().nodes():
            if node.kind() in CALLS:
                name = node.s("name") if node.hasAttribute("name") else "a function"
                raise ValueError(f"the graph still calls {name}: its operators are not known")
            if node.kind().startswith("aten::"):
                counts[node.kind()] += 1
            blocks.extend(node.blocks())
    return counts


def matching(counts: Mapping[str, int], patterns: Sequence[str]) -> dict[str, int]:
    """Return the operators whose names contain one of the patterns.

    >>> matching(Counter({"aten::batch_norm": 2, "aten::relu": 3}), NORM_OPERATORS)
    {'aten::batch_norm': 2}
    """
    return {name: count for name, count in sorted(counts.items()) if any(pattern in name for pattern in patterns)}
