"""The member native.json of an int8 ONNX archive: the places of the native step's tensors within step.onnx.

With these places, the archive holds its weights only once. The tensors and ranges are in the order of
`expected_tensors` and `expected_ranges` of wenet_fusion_kernels.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from wenet_fusion_runtime.console import SHOWN, visible
from wenet_fusion_runtime.files import parse_json

NATIVE = "native.json"
FORMAT = 1
_TYPES = ("float32", "int8", "int32")


class Placed(NamedTuple):
    """A tensor in step.onnx.

    >>> Placed("float32", (2, 3), offset=100).size
    24
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int  # in bytes, from the start of step.onnx

    @property
    def size(self) -> int:
        """Number of bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class NativeTable:
    """Sizes of a model, places of its tensors, and ranges of its quantised inputs.

    >>> table = NativeTable({"dim": 4}, (Placed("int8", (2,), 1),), ((0.5, 128),), checksum=zlib.crc32(b"abc"))
    >>> NativeTable.parse(table.to_json()).arrays(b"abc")[0].tolist()
    [98, 99]
    """

    sizes: Mapping[str, int]  # names and values of wenet_fusion_kernels.Sizes
    tensors: tuple[Placed, ...]
    ranges: tuple[tuple[float, int], ...]  # scale and zero point
    checksum: int  # CRC-32 of step.onnx

    def to_json(self) -> str:
        """Return the content of native.json."""
        return json.dumps({"format": FORMAT, **asdict(self)})

    @classmethod
    def parse(cls, content: str | bytes) -> NativeTable:
        """Read the content of native.json.

        Raises:
            ValueError: a field is missing or wrong, or the file has another format version.
        """
        record = parse_json(content)
        try:
            if record["format"] != FORMAT:
                raise ValueError(f"has format {visible(repr(record['format']), SHOWN)}, expected {FORMAT}")
            sizes = {str(name): _whole(value) for name, value in record["sizes"].items()}
            return cls(
                sizes,
                tuple(_placed(*entry) for entry in record["tensors"]),
                tuple((float(scale), _whole(zero_point)) for scale, zero_point in record["ranges"]),
                _whole(record["checksum"]),
            )
        except (AttributeError, KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"is damaged ({error!r})") from None

    def arrays(self, step: bytes) -> list[np.ndarray]:
        """Return the tensors, which share the memory of `step`, the content of step.onnx.

        Raises:
            ValueError: `step` is not the file for which the table was made.
        """
        if zlib.crc32(step) != self.checksum or any(each.offset + each.size > len(step) for each in self.tensors):
            raise ValueError("was made for another step.onnx")
        return [
            np.frombuffer(step, each.dtype, math.prod(each.shape), each.offset).reshape(each.shape)
            for each in self.tensors
        ]


def _placed(dtype: Any, shape: Any, offset: Any) -> Placed:
    if dtype not in _TYPES:
        raise ValueError(f"has a tensor of type {dtype!r}, expected one of {', '.join(_TYPES)}")
    return Placed(dtype, tuple(map(_whole, shape)), _whole(offset))


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 40:
        raise ValueError(f"has {value!r} where a whole number belongs")
    return value
