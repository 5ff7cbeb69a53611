"""The encoder's activations by name. To add one, add a line to `ACTIVATIONS`."""

from collections.abc import Callable, Iterable
from difflib import get_close_matches

from torch import nn

# `encoder.activation` names one of these. ReLU is the default: packed and int8 kernels compute it at no extra cost.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "swish": nn.SiLU,
    "gelu": nn.GELU,
    "hardswish": nn.Hardswish,
    "leaky_relu": nn.LeakyReLU,
}
FREE = "relu"


def build_activation(name: str) -> nn.Module:
    """Return a new activation.

    Raises:
        ValueError: the table has no such name; the message lists the names.

    >>> build_activation("gelu")
    GELU(approximate='none')
    """
    if name not in ACTIVATIONS:
        raise ValueError(unknown_name("activation", name, ACTIVATIONS))
    return ACTIVATIONS[name]()


def activation_cost(name: str, model: nn.Module) -> str:
    """Return a sentence that says what the activation costs an exported model; empty for ReLU.

    Args:
        name: the encoder's activation.
        model: the model to export.

    >>> activation_cost("gelu", nn.Sequential(nn.GELU(), nn.GELU()))
    'activation gelu adds 2 operators to every step; relu adds none, because packed and int8 kernels include it'
    """
    if name == FREE:
        return ""
    kind = type(build_activation(name))
    count = sum(type(module) is kind for module in model.modules())
    return (
        f"activation {name} adds {count} operators to every step; relu adds none, because packed and int8 kernels "
        "include it"
    )


def unknown_name(field: str, value: str, table: Iterable[str]) -> str:
    """Return the error message for a name that a table lacks; it lists the names and suggests the closest one.

    >>> unknown_name("activation", "gleu", ["relu", "gelu"])
    "activation: 'gleu' is unknown; choose one of relu, gelu (did you mean gelu?)"
    """
    names = list(table)
    close = get_close_matches(value, names, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"{field}: {value!r} is unknown; choose one of {', '.join(names)}{hint}"
