"""The metadata of an ONNX graph in the format of WeNet or of sherpa-onnx.

Their runtimes read numbers with `atoi`; this module refuses numbers that are missing or wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_TRUE = {"1", "true"}
_FALSE = {"0", "false"}


@dataclass(frozen=True)
class GraphMetadata:
    """The metadata of one graph.

    Args:
        values: texts by name.
        source: the file, for messages.

    >>> found = GraphMetadata({"head": "4", "is_bidirectional_decoder": "True"}, "encoder.onnx")
    >>> found.integer("head"), found.flag("is_bidirectional_decoder")
    (4, True)
    >>> found.integer("output_size")
    Traceback (most recent call last):
    ValueError: encoder.onnx: its metadata have no output_size: export the model again with the exporter of its runtime
    """

    values: Mapping[str, str]
    source: str

    def integer(self, name: str, least: int = 0) -> int:
        """Return an integer. Raises ValueError if it is missing, not an integer, or less than `least`."""
        text = self._text(name)
        try:
            found = int(text)
        except ValueError:
            found = least - 1
        if found < least:
            raise ValueError(
                f"{self.source}: {name} in its metadata must be a number of at least {least}, found '{text}'"
            )
        return found

    def flag(self, name: str) -> bool:
        """Return a truth value. Raises ValueError if it is missing or is not one."""
        text = self._text(name).lower()
        if text not in _TRUE | _FALSE:
            raise ValueError(f"{self.source}: {name} in its metadata must be 0 or 1, found '{text}'")
        return text in _TRUE

    def weight(self, name: str, default: float) -> float:
        """Return a number between 0 and 1; `default` if it is missing or is not such a number."""
        try:
            found = float(self.values.get(name, default))
        except ValueError:
            return default
        return found if 0 <= found <= 1 else default

    def sample_rate(self) -> int | None:
        """Return the sample rate, which `wenet-fusion export` writes; None for other graphs, which do not state it.

        Raises ValueError if it is not an integer of at least 1.
        """
        return self.integer("sample_rate", 1) if "sample_rate" in self.values else None

    def _text(self, name: str) -> str:
        try:
            return self.values[name].strip()
        except KeyError:
            raise ValueError(
                f"{self.source}: its metadata have no {name}: export the model again with the exporter of its runtime"
            ) from None
